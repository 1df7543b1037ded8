"""Neural-network quantization from first principles: the implementations behind the course.

One module an idea; each is explained in a chapter of the book.
"""

__version__ = "0.1.0"
