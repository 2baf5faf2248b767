"""What others measured on many devices: the points that predictions are held to.

Sources:

- gpt-fast: its README; A100-80 with NVLink, batch 1, bf16, a short prompt, 200 new tokens; tokens
  a second.
- FasterTransformer: ``docs/gpt_guide.md``, "Performance"; A100-80 SuperPod, eight to a machine with
  NVSwitch, 8 x 200 Gb/s InfiniBand between machines, fp16; milliseconds for a batch.
- Megatron-LM: README of its first releases, weak scaling of training on one DGX-2, 1,024 tokens,
  batch 8; milliseconds an iteration. Activations are computed again for the backward pass.
- TensorRT-LLM 0.20, performance overview: Llama-3.3-70B in FP4 on B200; only the order is used,
  for no decoder of 4-bit floats is modelled.

Which points parameters are fitted to was set before anything was predicted: of gpt-fast 7B on 1, 2
and 4 devices and 70B on 4; of FasterTransformer the 20B model at batch 1 and 16 on 1, 2 and 8
devices for 80 + 200 and 128 + 20 tokens, and the 530B model at batch 1 for 60 + 20 tokens on 16 and
32 devices (the network's times); of Megatron-LM one device. All others are only predicted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

GPT_FAST, FASTER, MEGATRON = "gpt-fast", "FasterTransformer", "Megatron-LM"


@dataclass(frozen=True)
class Point:
    """One published measurement.

    Attributes:
        source: who published it.
        model: name of a decoder.
        prompt: tokens read.
        new: tokens made.
        batch: requests at once.
        tensor: ranks that divide each op.
        pipeline: stages.
        seconds: of the batch.
        fit: whether parameters are fitted to it.
    """

    source: str
    model: str
    prompt: int
    new: int
    batch: int
    tensor: int
    pipeline: int
    seconds: float
    fit: bool = False

    @property
    def devices(self) -> int:
        """How many devices there are."""
        return self.tensor * self.pipeline

    @property
    def within(self) -> bool:
        """Whether all devices are in one machine."""
        return self.devices <= 8

    @property
    def setting(self) -> tuple[object, ...]:
        """What points have in common that differ in their plan alone."""
        return (self.source, self.model, self.prompt, self.new, self.batch)


# Tokens a second, by tensor parallelism.
_GPT_FAST: Mapping[str, Mapping[int, float]] = {
    "llama-2-7b": {1: 104.9, 2: 168.84, 4: 254.02, 8: 328.43},
    "llama-2-70b": {2: 21.32, 4: 38.01, 8: 62.50},
}
_GPT_FAST_FIT = {("llama-2-7b", 1), ("llama-2-7b", 2), ("llama-2-7b", 4), ("llama-2-70b", 4)}
_SHORT_PROMPT, _ANSWER = 6, 200

# Milliseconds; columns are tensor x pipeline, rows are batches; 0 where memory did not suffice.
_Rows = Mapping[int, tuple[float, ...]]
_COLUMNS: Mapping[str, tuple[tuple[int, int], ...]] = {
    "gpt-20b": ((1, 1), (2, 1), (4, 1), (8, 1)),
    "gpt-530b": ((16, 1), (32, 1), (8, 3)),
    "gpt-89b": ((8, 1),),
    "gpt-175b": ((8, 1),),
}
_FASTER: Mapping[tuple[str, int, int], _Rows] = {
    ("gpt-20b", 20, 8): {
        1: (225, 147, 102, 89), 2: (225, 152, 108, 94), 4: (228, 158, 113, 100),
        8: (239, 169, 121, 107), 16: (268, 191, 133, 113), 32: (331, 230, 155, 127),
        64: (452, 314, 200, 169), 128: (726, 484, 318, 256), 256: (1352, 844, 533, 416),
    },
    ("gpt-20b", 60, 20): {
        1: (560, 358, 248, 212), 2: (562, 378, 262, 222), 4: (582, 393, 274, 236),
        8: (635, 429, 299, 247), 16: (748, 510, 345, 272), 32: (933, 620, 418, 325),
        64: (1352, 887, 574, 454), 128: (2218, 1384, 928, 699), 256: (4141, 2424, 1574, 1152),
    },
    ("gpt-20b", 128, 20): {
        1: (566, 362, 254, 217), 2: (580, 385, 267, 227), 4: (629, 421, 290, 244),
        8: (740, 487, 333, 267), 16: (931, 618, 405, 312), 32: (1335, 862, 547, 418),
        64: (2157, 1379, 832, 634), 128: (3830, 2365, 1439, 1072), 256: (0, 4414, 2639, 1943),
    },
    ("gpt-20b", 80, 200): {
        1: (5609, 3532, 2438, 2053), 2: (5588, 3682, 2544, 2095), 4: (5661, 3797, 2646, 2206),
        8: (5838, 3984, 2741, 2268), 16: (6167, 4356, 2964, 2307), 32: (6864, 4817, 3233, 2566),
        64: (8290, 6003, 3815, 3173), 128: (0, 7884, 5239, 4303), 256: (0, 12007, 7603, 6087),
    },
    ("gpt-20b", 200, 200): {
        1: (5648, 3544, 2481, 2080), 2: (5686, 3739, 2597, 2131), 4: (5830, 3876, 2719, 2249),
        8: (6146, 4123, 2851, 2338), 16: (6815, 4672, 3152, 2475), 32: (8111, 5488, 3634, 2811),
        64: (10766, 7256, 4536, 3621), 128: (0, 10538, 6618, 5229), 256: (0, 0, 10447, 7895),
    },
    ("gpt-530b", 20, 8): {
        1: (565, 431, 842), 2: (598, 455, 860), 4: (616, 493, 867), 8: (660, 523, 929),
        16: (730, 575, 1049), 32: (865, 672, 1283), 64: (1191, 942, 1722),
        128: (1862, 1431, 2124), 256: (3341, 2483, 3140),
    },
    ("gpt-530b", 60, 20): {
        1: (1379, 1037, 2085), 2: (1515, 1110, 2122), 4: (1512, 1198, 2184),
        8: (1631, 1295, 2367), 16: (1868, 1454, 2753), 32: (2361, 1804, 3543),
        64: (3383, 2646, 4117), 128: (5406, 4099, 5319), 256: (0, 7203, 8318),
    },
    ("gpt-530b", 128, 8): {
        1: (585, 451, 866), 2: (667, 508, 932), 4: (765, 606, 1097), 8: (990, 766, 1434),
        16: (1377, 1074, 2104), 32: (2251, 1741, 2623), 64: (4002, 3114, 3578),
        128: (0, 5784, 5512), 256: (0, 11232, 9614),
    },
    ("gpt-175b", 128, 8): {
        1: (488.86,), 2: (509.47,), 4: (629.64,), 8: (749.86,), 12: (886.24,), 16: (1037.47,),
        20: (1135.72,), 32: (1547.44,),
    },
    ("gpt-175b", 512, 32): {
        1: (1719.96,), 2: (1830.56,), 4: (2092.56,), 8: (2629.97,), 16: (3706.23,),
    },
    ("gpt-89b", 128, 8): {
        1: (279.44,), 2: (280.24,), 4: (317.71,), 8: (377.50,), 12: (445.46,), 16: (524.80,),
        20: (575.83,), 32: (786.57,),
    },
    ("gpt-89b", 512, 32): {
        1: (887.52,), 2: (940.11,), 4: (1133.22,), 8: (1415.02,), 16: (1952.2,),
    },
}  # fmt: skip
_FIT_20B, _FIT_530B = ((80, 200), (128, 20)), (60, 20)

# Milliseconds an iteration, by the number of devices.
_MEGATRON = {
    "megatron-1b": (1, 1288),
    "megatron-2b": (2, 1242),
    "megatron-4b": (4, 1357),
    "megatron-8b": (8, 1508),
}

# Tokens a second: (prompt, new) -> by tensor parallelism 1, 2, 4, 8.
TENSORRT: Mapping[tuple[int, int], tuple[float, ...]] = {
    (128, 128): (10994, 17542, 24667, 27272),
    (128, 2048): (9580, 15432, 23568, 31174),
}


def points() -> tuple[Point, ...]:
    """Return every point in order of its source."""
    return (*_gpt_fast(), *_faster(), *_megatron())


def _gpt_fast() -> Iterator[Point]:
    for model, rates in _GPT_FAST.items():
        for tensor, rate in rates.items():
            fit = (model, tensor) in _GPT_FAST_FIT
            seconds = _ANSWER / rate
            yield Point(GPT_FAST, model, _SHORT_PROMPT, _ANSWER, 1, tensor, 1, seconds, fit)


def _faster() -> Iterator[Point]:
    for (model, prompt, new), rows in _FASTER.items():
        for batch, row in rows.items():
            for (tensor, pipeline), ms in zip(_COLUMNS[model], row, strict=True):
                if ms:
                    fit = _fits(model, (prompt, new), batch, tensor, pipeline)
                    seconds = ms / 1e3
                    yield Point(FASTER, model, prompt, new, batch, tensor, pipeline, seconds, fit)


def _fits(model: str, tokens: tuple[int, int], batch: int, tensor: int, pipeline: int) -> bool:
    if model == "gpt-20b":
        return tokens in _FIT_20B and batch in (1, 16) and tensor != 4
    return model == "gpt-530b" and tokens == _FIT_530B and batch == 1 and pipeline == 1


def _megatron() -> Iterator[Point]:
    for model, (tensor, ms) in _MEGATRON.items():
        yield Point(MEGATRON, model, 1024, 0, 8, tensor, 1, ms / 1e3, tensor == 1)
