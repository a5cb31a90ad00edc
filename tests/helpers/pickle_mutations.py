"""Ways to damage a pickle: its instructions."""

from __future__ import annotations

import itertools
import pickletools
from collections.abc import Callable

from helpers.faults import Mutation
from helpers.mutations import Draw, on_bytes

#: Instructions that data files have, and some that none has.
SNIPPETS = (
    *(bytes([code]) for code in b"}])(tasue.NbR0l2d\x81\x82\x85\x86\x87\x88\x89\x8f\x90\x91\x93"),
    *(
        b"\x94",
        b"\x97",
        b"\x98",
        b"K\x00",
        b"J\xff\xff\xff\xff",
        b"M\xff\xff",
        b"G\x7f\xf8" + bytes(6),
    ),
    *(b"G\x7f\xef" + b"\xff" * 6, b"\x8a\xff" + b"\x7f" * 255, b"\x8b\xff\xff\xff\x7f", b"L1L\n"),
    *(b"I01\n", b"Fnan\n", b"V\\ud800\n", b"U\x00", b"U\x02i8", b"X" + bytes(4), b"C\x00"),
    *(b"T\xff\xff\xff\xff", b"X\xff\xff\xff\xff", b"\x8d" + b"\xff" * 8, b"\x8e" + b"\xff" * 8),
    *(b"\x96" + bytes(7) + b"\x01", b"B\xff\xff\xff\x0f", b"h\x00", b"h\x01", b"j\xff\xff\xff\xff"),
    *(b"q\x00", b"r\xff\xff\xff\xff", b"\x95" + b"\xff" * 8),
    *(b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cnumpy.core.multiarray\n_reconstruct\n"),
    *(b"cnumpy.core.multiarray\nscalar\n", b"c_codecs\nencode\n", b"c__builtin__\nbytes\n"),
    *(b"cnumpy.core.numeric\n_frombuffer\n", b"cos\nsystem\n", b"cbuiltins\neval\n", b"c\n\n"),
    *(b"\x8c\x02os\x8c\x06system\x93", b"\x8c\x06latin1", b"\x8c\x05ascii", b")\x81", b"Qq\x00"),
    b"U\x02i8K\x00K\x01\x87",
    b")" + b"q\x00h\x00\x86" * 40,  # a tuple that holds itself twice, forty levels deep
    *(b")" + b"\x85" * 50_000, b"]" * 50_000, b"(" * 50_000, b"]q\x00h\x00a"),
)


def _instructions(content: bytes) -> list[bytes]:
    starts = [at for _, _, at in pickletools.genops(content)] + [len(content)]
    return [content[a:b] for a, b in itertools.pairwise(starts)]


def _edit(change: Callable[[Draw, list[bytes], int], None]) -> Callable[[Draw, bytes], bytes]:
    def apply(draw: Draw, content: bytes) -> bytes:
        instructions = _instructions(content)
        for _ in range(draw.choice((1, 1, 3))):
            # The parameters, which come first, decide most.
            at = int(len(instructions) * draw.random() ** draw.choice((1, 3)))
            change(draw, instructions, at)
        return b"".join(instructions)

    return apply


def _leave_out(draw: Draw, code: list[bytes], at: int) -> None:
    del code[at : at + draw.choice((1, 2, 10))]


def _repeat(draw: Draw, code: list[bytes], at: int) -> None:
    code[at:at] = code[at : at + draw.choice((1, 2, 10))] * draw.choice((1, 1, 1000))


def _swap(draw: Draw, code: list[bytes], at: int) -> None:
    other = draw.randrange(len(code))
    code[at], code[other] = code[other], code[at]


def _insert(draw: Draw, code: list[bytes], at: int) -> None:
    code.insert(at, draw.choice(SNIPPETS))


def _replace(draw: Draw, code: list[bytes], at: int) -> None:
    code[at] = draw.choice(SNIPPETS)


def _argument(draw: Draw, code: list[bytes], at: int) -> None:
    code[at] = code[at][:1] + draw.randbytes(len(code[at]) - 1)


def _program(draw: Draw, content: bytes) -> bytes:
    return content[:2] + b"".join(draw.choices(SNIPPETS, k=draw.randrange(60))) + b"."


def _anything(draw: Draw, content: bytes) -> bytes:
    return content[:2] + draw.randbytes(draw.randrange(200))


def of_pickle() -> list[Mutation]:
    """Changes of one to three instructions, and programs that are drawn whole."""
    changes = (_leave_out, _repeat, _swap, _insert, _replace, _argument)
    whole = [_program, _anything, *map(_edit, changes)]
    names = [one.__name__.strip("_") for one in (_program, _anything, *changes)]
    return [Mutation(name, on_bytes(one)) for name, one in zip(names, whole, strict=True)]
