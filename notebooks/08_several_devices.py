# %% [markdown]
# # One model, several devices
#
# A network that reads digits is divided over two processes of this machine, each with its own part
# of the weights, checked, saved and loaded; then cut into a row of parts, and served by a pool of
# unlike members. The same programs run in a simulator, on a cluster that is not here.

# %%
import tempfile
import time
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from digits import load_digits, load_net

import leptonc
from leptonc import Dim, Shard, Sharding

model = load_net()
images, labels = load_digits()
x = images[:64]
with torch.no_grad():
    want = model(x)

# %% [markdown]
# ## A plan
#
# What would be cut, what would the ranks tell each other, and what does that cost? A plan answers
# without running anything, for devices that need not be here. On a net as small as this one the
# answer is honest: with the objective `latency` one device is as good as it gets.

# %%
leptonc.plan(model, x, "cuda:4")

# %% [markdown]
# Asked for the least memory, every rank gets its part of each large weight. A hint fixes what you
# know better: here the rows of the first linear layer.

# %%
sharding = Sharding(objective="memory", hints={"classifier.0": Shard(0)})
print(leptonc.plan(model, x, "cpu:2", sharding=sharding).explain(full=True))

# %% [markdown]
# ## Two ranks
#
# `target="cpu:2"` starts two processes. Each reads its own slices of the weights, and no more, and
# packs them for its kernels; in a call they meet in shared memory.

# %%
net = leptonc.compile(model, x, target="cpu:2", sharding=sharding)
got = net(x)
whole = sum(p.numel() * 4 for p in model.parameters())
print(f"largest difference {float((got - want).abs().max()):.1e}")
print("held by the ranks:", [f"{b / whole:.0%}" for b in net.stats["weights"]])

# %%
fig, ax = plt.subplots(figsize=(5, 1.6))
ax.barh(["whole", "rank 0", "rank 1"], [whole / 2**20, *(b / 2**20 for b in net.stats["weights"])],
        color=["0.7", "tab:blue", "tab:blue"])  # fmt: skip
ax.set_xlabel("MiB of weights")
ax.invert_yaxis()
plt.show()

# %% [markdown]
# One function is run by all; what differs from rank to rank is a symbol in it. A rank's program is
# text that can be read, its collectives in plain sight:

# %%
print("\n".join(net.source_of(1).splitlines()[:45]))

# %% [markdown]
# Saved, the program is one directory for all ranks.

# %%
folder = tempfile.TemporaryDirectory()  # goes with the notebook
place = Path(folder.name)
net.save(place / "ranks")
net.close()
with leptonc.load(place / "ranks") as again:
    print(again, torch.equal(again(x), got))

# %% [markdown]
# ## A row of parts
#
# `split` cuts the net so that the slowest part is as fast as can be: here one convolution is most
# of the work, and a unit is not cut. Every part is a compiled net of its own, with named inputs and
# outputs, and may be saved and loaded on its own, on another machine perhaps.

# %%
parts = leptonc.split(model, 2, x[:16], dynamic={"image": {0: Dim("batch", max=256)}})
parts

# %%
for part in parts:
    part.save(place / f"part {part.index}")
loaded = [leptonc.Part.load(place / f"part {i}") for i in range(len(parts))]
rows = leptonc.run(loaded, x, microbatches=4)
print(f"largest difference {float((rows - want).abs().max()):.1e}, of type {type(rows).__name__}")

# %% [markdown]
# With micro-batches the parts work at the same time, each on another piece of the batch. What that
# gains depends on the cores that are free; `python -m leptonc.bench.parts` measures it.
#
# ## Unlike members
#
# Behind a pool stand nets that compute the same at unlike speeds. One of these computes everything
# three times. A batch is shared out by the speeds that were measured while it ran.

# %%
fast = leptonc.compile(model, x, dynamic={"image": {0: Dim("batch", max=256)}}, threads=1)


def slow(image):
    """Return what ``fast`` does, at a third of the speed."""
    for _ in range(2):
        fast(image)
    return fast(image)


with leptonc.Pool({"fast": fast, "slow": slow}) as pool:
    for _ in range(20):
        scores = pool.batch(images[:256])
    print(pool.report())
right = (scores.argmax(1) == labels[:256]).float().mean()
print(f"{float(right):.1%} of the digits are right")

# %% [markdown]
# ## A cluster that is not here
#
# The simulator runs the programs that the planner divides, on any number of devices. First this
# net's own plan, on two A100; then a language model with 70 billion weights, on up to eight.

# %%
net_plan = leptonc.plan(model, x, "cuda:2", sharding=sharding).plan
print(f"{leptonc.simulate(net_plan, '8xA100').latency_s * 1e6:.0f} us a batch on two A100")

# %%
from leptonc.shard.simulate import Layout, generation
from leptonc.shard.simulate.decoders import decoder

start = time.perf_counter()
work = generation(decoder("llama-2-70b"), 128, 128)
found = {n: leptonc.simulate(work, "8xA100", Layout(tensor=n)) for n in (2, 4, 8)}
for n, p in found.items():
    fits = "fits" if p.fits else "does not fit"
    rate, held = p.tokens / p.latency_s, p.memory / 2**30
    print(f"{n} devices: {rate:5.1f} tokens/s, {held:4.0f} GiB on each, {fits}")
print(f"simulated in {time.perf_counter() - start:.1f} s")

# %%
fig, ax = plt.subplots(figsize=(5, 2.6))
below = [0.0] * len(found)
for term in ("memory", "arithmetic", "launch", "communication"):
    seconds = [p.terms.get(term, 0.0) for p in found.values()]
    ax.bar([str(n) for n in found], seconds, bottom=below, label=term)
    below = [a + b for a, b in zip(below, seconds, strict=True)]
ax.set_xlabel("A100, ranks of one layer")
ax.set_ylabel("seconds for 128 tokens")
ax.legend(frameon=False)
plt.show()
