# %% [markdown]
# # Write a pass
#
# *Pruning* sets the least important channels of a network to zero. That alone saves no time:
# zeros are multiplied like other numbers. This notebook writes a pass that takes such channels
# out of the program, so that pruning pays.
#
# The network reads digits. Thousands of them are there to see what pruning costs in accuracy.

# %%
import copy
import time
from dataclasses import dataclass
from statistics import median
from typing import ClassVar

import matplotlib.pyplot as plt
import torch
from digits import load_digits, load_net

import leptonc
from leptonc import meaning
from leptonc.cost.flops import function_cost
from leptonc.ir.core import Builder, Function, Op
from leptonc.ir.kinds.contract import Conv, Linear
from leptonc.ir.kinds.data import Constant
from leptonc.ir.kinds.reduce import MaxPool
from leptonc.ir.kinds.unary import Relu
from leptonc.passes import REGISTRY
from leptonc.pipeline import Pass, PassManager, Recorder
from leptonc.rewrite import Trace
from leptonc.rewrite.driver import drop_dead
from leptonc.rewrite.trace import describe
from leptonc.selfcheck import PassCheck

model = load_net()
images, labels = load_digits()

# %% [markdown]
# ## Pruning
#
# How important is a channel? A common guess: as large as its weights are. Each bar is one
# channel, the smallest first.

# %%
LAYERS = ("features.0", "features.3", "classifier.0")


def sizes(layer):
    """Return the size of the weights of each output channel."""
    return layer.weight.flatten(1).norm(dim=1)


def pruned(share):
    """Return a copy of the network whose smallest channels are zero, that share of each layer."""
    found = copy.deepcopy(model)
    for name in LAYERS:
        layer = found.get_submodule(name)
        order = sizes(layer).argsort()
        least = order[: int(share * len(order))]
        layer.weight[least] = 0
        layer.bias[least] = 0
    return found


figure, axes = plt.subplots(1, 3, figsize=(12, 2.6))
for axis, name in zip(axes, LAYERS, strict=True):
    layer = model.get_submodule(name)
    axis.bar(range(len(layer.weight)), sizes(layer).sort().values, color="tab:orange", width=1)
    axis.set(title=f"{name}: {len(layer.weight)} channels", xlabel="channel, smallest first")
axes[0].set_ylabel("size of its weights")
plt.show()

# %% [markdown]
# ## The pass
#
# A pass takes a function and gives a function. It is a frozen dataclass whose fields are its
# options.
#
# This one looks for a convolution or linear layer with output channels that are zero whatever
# comes in: weights and bias are zero. From there it follows the result. `relu` and `max_pool`
# keep zeros zero and channels apart. Where it meets the next layer, that one needs neither the
# channel nor the weights that it multiplies it with.
#
# What the pass does and what it declines, it tells the trace. Those remarks reach the report.


# %%
@dataclass(frozen=True)
class DropChannels(Pass):
    """Take out channels that are zero for every finite input.

    The number of channels that a layer keeps is rounded up to a ``multiple``.
    """

    multiple: int = 1
    NAME: ClassVar[str] = "drop-channels"

    def run(self, fn: Function, trace: Trace) -> Function:
        """Return ``fn`` with narrower layers; ``fn`` itself where no channel is zero."""
        rows: dict[Op, torch.Tensor] = {}  # the outputs that a layer keeps
        columns: dict[Op, torch.Tensor] = {}  # the inputs that a layer keeps
        for op in fn.ops:
            kept = self.kept(fn, op)
            if kept is None or len(kept) == len(weights(fn, op)[0]):
                continue
            reader = next_layer(fn, op)
            if reader is None or not is_layer(fn, reader):
                met = "the caller" if reader is None else describe(reader)
                trace.missed(op, f"has zero channels, but {met} reads them")
                continue
            rows[op] = columns[reader] = kept
            total = len(weights(fn, op)[0])
            trace.applied(op, f"{total - len(kept)} of {total} channels are zero: taken out")
        return rebuilt(fn, rows, columns) if rows else fn

    def kept(self, fn: Function, op: Op) -> torch.Tensor | None:
        """Return the channels that a layer keeps, in order; None for other operations."""
        if not is_layer(fn, op):
            return None
        nonzero = [w.flatten(1).any(1) if w.dim() > 1 else w != 0 for w in weights(fn, op)]
        alive = torch.stack(nonzero).any(0)
        count = max(1, -(-int(alive.sum()) // self.multiple)) * self.multiple
        alive_first = alive.int().argsort(descending=True, stable=True)
        return alive_first[:count].sort().values


def weights(fn: Function, op: Op) -> list[torch.Tensor]:
    """Return weight and bias of a layer."""
    return [meaning.tensor_of(fn.producer[v].kind.const) for v in op.operands[1:]]


def is_layer(fn: Function, op: Op) -> bool:
    """Whether an operation is a layer in one group with constant, finite weights."""
    if not isinstance(op.kind, Conv | Linear) or getattr(op.kind, "groups", 1) != 1:
        return False
    makers = [fn.producer.get(v) for v in op.operands[1:]]
    constant = all(m is not None and isinstance(m.kind, Constant) for m in makers)
    return constant and all(bool(w.isfinite().all()) for w in weights(fn, op))


def next_layer(fn: Function, op: Op) -> Op | None:
    """Return the only reader behind relu and max_pool; None if the caller reads, or several do."""
    value = op.result
    while fn.use_count[value] == 1 and fn.users[value]:
        (reader,) = fn.users[value]
        if not isinstance(reader.kind, Relu | MaxPool):
            return reader
        value = reader.result
    return None


def rebuilt(fn: Function, rows: dict, columns: dict) -> Function:
    """Return ``fn`` with the layers narrowed; the builder finds the new types by itself."""
    b, new = Builder(fn.name, list(fn.params), dims=fn.dims), {v: v for v in fn.params}
    for op in fn.ops:
        operands = [new[v] for v in op.operands]
        if op in rows or op in columns:
            weight, *bias = weights(fn, op)
            kept = rows.get(op, slice(None))
            narrow = [weight[kept][:, columns.get(op, slice(None))], *(v[kept] for v in bias)]
            operands[1:] = [b(Constant(meaning.const_of(t.contiguous()))) for t in narrow]
        made = b.emit(op.kind, *operands, origin=op.origin, hint=op.results[0].hint)
        new.update(zip(op.results, made, strict=True))
    return drop_dead(b.finish(*(new[v] for v in fn.returns)))


# %% [markdown]
# ## Trying it
#
# The pass manager runs passes in order and checks that each result is a valid function. The
# `PassCheck` of a compile with `verify="pass"` also holds each result to what the captured program
# computes: on a digit and on inputs drawn from it, within what float32 itself costs on them.

# %%
half = pruned(0.5)
fn = leptonc.capture(half, images[:1])

recorder, check = Recorder(), PassCheck.of(fn, [images[:1]], "fp32")
after = PassManager((DropChannels(),), (recorder, check)).run(fn)
for remark in recorder.remarks:
    print(f"{remark.kind.value:<8} {remark.what} at {remark.origin}: {remark.reason}")
print()
for a in (fn, after):
    shapes = [str(op.result.type) for op in a.ops if isinstance(op.kind, Conv | Linear)]
    print(", ".join(shapes), f"  {function_cost(a).flops / 1e6:.2f} million operations")

# %% [markdown]
# Three laws hold for every pass: the function it was given is untouched, a second run changes
# nothing (and says so by giving back the same object), and the types of the results stay.
#
# A field is an option. It stands in the pipeline string where it is not the default.

# %%
assert DropChannels()(after) is after
assert [v.type for v in after.returns] == [v.type for v in fn.returns]
unpruned = leptonc.capture(model, images[:1])
assert DropChannels()(unpruned) is unpruned

rounded_up = DropChannels(multiple=12)
shapes = [str(op.result.type) for op in rounded_up(fn).ops if isinstance(op.kind, Conv | Linear)]
print(rounded_up, "makes", ", ".join(shapes))

# %% [markdown]
# One layer was declined, and the remark says why: behind it, images become rows of numbers, and
# one channel becomes many columns. To follow that too would be the next step.
#
# ## In the compiler
#
# A pass with a name can stand in a pipeline string, before all the others. (In the repository, it
# would be a file in `passes/` and a line in the same registry.) `cache=False`, because the cache
# does not know what is written in a notebook. `verify="pass"` holds every pass to the model while
# compiling.

# %%
REGISTRY["drop-channels"] = "__main__:DropChannels"
plain = leptonc.compile(half, images[:1], cache=False)
narrow = leptonc.compile(half, images[:1], pipeline="drop-channels,O2", cache=False, verify="pass")
print(narrow.report())

# %%
with torch.no_grad():
    want = torch.cat([half(image[None]) for image in images[:200]])
got = torch.cat([narrow(image[None]) for image in images[:200]])
error = float((got - want).abs().max() / want.abs().max())
print(f"largest difference of a score: {error:.1e} of the largest")
assert torch.equal(got.argmax(1), want.argmax(1))

# %% [markdown]
# ## Does it pay?
#
# For more and more channels: how many of the digits are read right, how long the program takes
# with zeros in it, and how long without them. All programs take turns. Where nothing is pruned
# both programs are the same one: what they differ by there is what this measurement leaves open.

# %%
shares = (0.0, 0.25, 0.5, 0.75)
nets = {"zeros stay": [], "zeros taken out": []}
accuracy = []
for share in shares:
    net = pruned(share)
    accuracy.append(float((net(images).argmax(1) == labels).float().mean()))
    for name, pipeline in zip(nets, ("O2", "drop-channels,O2"), strict=True):
        nets[name].append(leptonc.compile(net, images[:1], pipeline=pipeline, cache=False))


def microseconds(call):
    """Return how long the fastest of some calls takes."""
    found = []
    for _ in range(10):
        start = time.perf_counter()
        call(images[:1])
        found.append(time.perf_counter() - start)
    return min(found) * 1e6


rounds = [{k: [microseconds(n) for n in found] for k, found in nets.items()} for _ in range(60)]
times = {k: [median(r[k][i] for r in rounds[10:]) for i in range(len(shares))] for k in nets}

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4))
percent = [100 * s for s in shares]
left.plot(percent, [100 * a for a in accuracy], "o-", color="tab:blue")
left.set(xlabel="channels pruned, %", ylabel="digits read right, %", title="what it costs")
for (name, found), color in zip(times.items(), ("tab:gray", "tab:orange"), strict=True):
    right.plot(percent, found, "o-", color=color, label=name)
right.set(xlabel="channels pruned, %", ylabel="microseconds a digit", title="what it gains", ylim=0)
right.legend()
plt.show()
for i, share in enumerate(shares):
    old, new = times["zeros stay"][i], times["zeros taken out"][i]
    took = f"{old:5.1f} us with zeros, {new:5.1f} us without"
    print(f"{share:4.0%} pruned: {accuracy[i]:.2%} right, {took}")

# %% [markdown]
# Zeros that stay cost what other numbers cost. Taken out, they save time, also with the one layer
# that was declined. How many channels may go, the accuracy says.
