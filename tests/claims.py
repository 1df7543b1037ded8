"""Which claims of the two source notes (A and B) belong to which finished chapters.

Every id of the notes' list is here. A chapter named beside an id must cite it as ``(claim A8)`` or ``(claims A8, A9)``.
"""

CHAPTERS = {
    "floats": "A1 A3 A4 A5 A6 A7 A8 A9 A20 A29 A40 A41 B21",
    "fixed_point": "A2 A3 B27",
    "low_precision": "A10 A11 A18b A50 A52 B1 B4 B5 B22 B28 B37 B38",
    "counting": "A12 A13 A53",
    "roofline": "A10 A11 B1 B2 B36",
    "affine_and_scale": "A19 A21 A22 A23 A24 A25 A31 A32 A42 A43 A44 B3 B6 B7 B8 B9 B10 B11 B18 B19 B22 B23 B33 B34",
    "granularity": "A17 A46 B12",
    "beyond_uniform": "A18a A18b A18c A19 A51",
    "multiplier": "A26 A27 A54",
    "integer_layers": "A25 A27 A28 A54 B3 B6",
    "calibration": "A14 A15 A30 A31 A32 A33 A34 A38 A45 A47 B13 B15 B23 B40",
    "entropy": "A35 A36 A37 A48 B24 B39",
    "ptq": "A14 A16 A17 A39 A45 A49 B2 B14 B15 B17 B20 B29 B35",
    "data_free": "A14 A49",
    "selective": "B16a B26a B26b B26c B43 B44 B45",
    "qat": "A14 A16 A18a A39 B16b B25 B30 B31 B41",
    "learned_parameters": "B16c B32",
    "deployment": "A10 A11 A50 A55 B2 B37 B42",
    "scaling_out": "",
}

BY_CHAPTER = {chapter: tuple(ids.split()) for chapter, ids in CHAPTERS.items()}
ALL = {claim for ids in BY_CHAPTER.values() for claim in ids}
