"""Builds the C++ kernels; everything else about the package stands in pyproject.toml.

One source is compiled once per instruction-set level, and ``surrogate.kernels.cpu`` picks the
fastest that the CPU runs. Every level is optional by itself: what the compiler cannot build is left
out, and with none the package works on torch alone. ``SURROGATE_NO_EXTENSION=1`` builds none.
"""

import copy
import os
import platform
import sys
import sysconfig
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

FOLDER = Path("kernels", "cpu")
MSVC = sys.platform == "win32"

# Not -ffast-math: with it a NaN would pass for a number, and the kernels gain nothing by it.
FLAGS = (
    ["/std:c++14", "/O2", "/EHsc", "/DNDEBUG"]
    if MSVC
    else [
        *("-std=c++11", "-O3", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"),
        *("-fvisibility=hidden", "-fvisibility-inlines-hidden", "-DNDEBUG", "-g0"),
    ]
)
# Spelt out, because older compilers know the instructions but not -march=x86-64-v3.
V3 = ["-mavx2", "-mfma", "-mbmi", "-mbmi2", "-mf16c", "-mlzcnt", "-mmovbe", "-mpopcnt", "-mxsave"]
V4 = [
    *(*V3, "-mavx512f", "-mavx512bw", "-mavx512cd", "-mavx512dq", "-mavx512vl"),
    "-mprefer-vector-width=512",
]
X86_LEVELS = {"_x86_64": [], "_x86_64_v3": V3, "_x86_64_v4": V4}

# The limited API of 3.11 has all that the module needs; free-threaded Pythons before 3.15 lack it.
LIMITED = not sysconfig.get_config_var("Py_GIL_DISABLED")


def levels() -> dict[str, list[str]]:
    """Module name and extra flags of every level for this machine."""
    machine = platform.machine().lower()
    if machine in {"x86_64", "amd64"}:
        return {"_x86_64": []} if MSVC else X86_LEVELS
    return {"_arm64" if machine in {"arm64", "aarch64"} else "_generic": []}


class BuildLevels(build_ext):
    """Builds the levels side by side and says so where there are none."""

    def build_extensions(self) -> None:
        super().build_extensions()
        if not any(Path(self.get_ext_fullpath(ext.name)).exists() for ext in self.extensions):
            self.warn(
                "the C++ kernels were not built, so surrogate will compute with torch, which is "
                "slower; install g++ or clang++ and reinstall"
            )

    def build_extension(self, ext: Extension) -> None:
        level = copy.copy(self)
        # All levels have the same source: in one folder their object files would collide.
        level.build_temp = os.path.join(self.build_temp, ext.name)
        try:
            build_ext.build_extension(level, ext)
        except Exception:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)  # an earlier source's
            raise

    def copy_extensions_to_source(self) -> None:
        for ext in self.extensions:
            Path(self.get_ext_fullpath(ext.name)).unlink(missing_ok=True)
        super().copy_extensions_to_source()


def extension(name: str, flags: list[str]) -> Extension:
    limited_api = [("Py_LIMITED_API", "0x030B0000")] if LIMITED else []
    return Extension(
        f"surrogate.kernels.cpu.{name}",
        [str(FOLDER / "module.cpp")],
        depends=["setup.py", *sorted(map(str, FOLDER.glob("*.h")))],
        define_macros=[("SURROGATE_MODULE", name), *limited_api],
        extra_compile_args=[*FLAGS, *flags],
        language="c++",
        py_limited_api=LIMITED,
        optional=True,
    )


wanted = {} if os.environ.get("SURROGATE_NO_EXTENSION") == "1" else levels()
setup(
    ext_modules=[extension(name, flags) for name, flags in wanted.items()],
    cmdclass={"build_ext": BuildLevels},
    options={
        "build_ext": {"parallel": True},
        "bdist_wheel": {"py_limited_api": "cp311"} if LIMITED else {},
    },
)
