# %% [markdown]
# # Compile a model and read the report
#
# EfficientNet-Lite0 with its trained weights looks at photos, once as PyTorch runs it and once
# compiled. Are the answers the same, how long do they take, and what did the compiler do?

# %%
import time
from statistics import median

import matplotlib.pyplot as plt
import torch

import leptonc
from leptonc import demo
from leptonc.bench import photos as prepared

model, photos = demo.load_model(), demo.load_photos()
weights = sum(p.numel() for p in model.parameters())
print(f"{weights / 1e6:.2f} million weights, {len(photos.images)} photos, each with a true class")

# %% [markdown]
# One call compiles. It takes the model and an input like those to come. The result is called as
# the model is called.
#
# Before `compile` returns, it compares its own result with the model's. The first compile on a
# machine also builds the kernels; they are kept for the next one.

# %%
example = photos.images[:1]
start = time.perf_counter()
net = leptonc.compile(model, example)
print(f"compiled and checked in {time.perf_counter() - start:.1f} s")
net

# %% [markdown]
# ## The same answers
#
# Each photo with the class that the compiled model gives, in green where that is the true class.
# Then what both say of all photos.

# %%
eager, ours = demo.answers(model, photos), demo.answers(net, photos)
first = ours.logits.argmax(1)

figure, axes = plt.subplots(2, 10, figsize=(14, 3.4))
for axis, image, label, got in zip(axes.flat, photos.images, photos.labels, first, strict=True):
    axis.imshow((image * prepared.SPREAD + prepared.MEAN).clamp(0, 1).permute(1, 2, 0))
    axis.set_title(f"class {got}", color="tab:green" if got == label else "tab:red", fontsize=9)
    axis.axis("off")
figure.tight_layout()
plt.show()

n = len(photos.labels)
for name, answer in (("eager", eager), ("leptonc", ours)):
    print(f"{name:<8} right {answer.top1} of {n}, among the first five {answer.top5} of {n}")
assert torch.equal(eager.logits.argmax(1), first)

# %% [markdown]
# The scores behind these answers are not the same to the last bit: a sum of floats depends on the
# order of its terms, and the compiled program adds in another order. The picture shows by how
# much those differ that do. All scores of all photos are in it.

# %%
difference = (ours.logits - eager.logits).abs().flatten()
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6))
left.plot(eager.logits.flatten(), ours.logits.flatten(), ".", markersize=2)
left.set(xlabel="score, eager", ylabel="score, compiled", title="the scores lie on one line")
right.hist(difference[difference > 0].log10(), bins=60)
right.set(xlabel="log10 of the difference", ylabel="scores", title="and differ by this much")
figure.tight_layout()
plt.show()
largest = float(difference.max() / eager.logits.abs().max())
equal = int((difference == 0).sum())
print(f"equal to the last bit: {equal:,} of {len(difference):,} scores")
print(f"largest difference: {largest:.1e} of the largest score")
assert largest < 1e-4

# %% [markdown]
# ## Faster
#
# Both take turns, so that whatever else this machine does meets both. (`leptonc bench` measures
# more carefully, and other runtimes too.)


# %%
def milliseconds(call):
    """Return how long one call takes."""
    start = time.perf_counter()
    call(example)
    return (time.perf_counter() - start) * 1e3


times = {"eager": [], "leptonc": []}
with torch.no_grad():
    for _ in range(40):
        times["eager"].append(milliseconds(model))
        times["leptonc"].append(milliseconds(net))
middle = {name: median(found[5:]) for name, found in times.items()}  # the first ones warm up

figure, axis = plt.subplots(figsize=(7, 1.6))
bars = axis.barh(list(middle), list(middle.values()), color=["tab:gray", "tab:orange"])
axis.bar_label(bars, fmt="%.2f ms", padding=4)
axis.set(xlabel="milliseconds a photo (median)", xlim=(0, 1.2 * max(middle.values())))
plt.show()
print(f"{middle['eager'] / middle['leptonc']:.1f} times as fast")

# %% [markdown]
# ## The report
#
# What to look for:
#
# * **ops**: how much runs natively. What leptonc has no kernel for runs through torch, and is
#   named.
# * **memory**: the arena is the one block that all intermediate results share. The largest live
#   set is the least that any arrangement could need.
# * **passes**: the steps of the compiler in their order, and how many operations there were
#   before and after each.
# * **most work**: the units with the most arithmetic. A unit is a group of operations that runs
#   as one.

# %%
print(net.report())

# %% [markdown]
# The passes as a picture: the program as it was captured on the left, what runs on the right.

# %%
steps = [s for s in net.stages if s.changed]
names = ["captured", *(s.name.partition("{")[0] for s in steps)]
counts = [len(steps[0].before.ops), *(len(s.after.ops) for s in steps)]
figure, axis = plt.subplots(figsize=(9, 3))
bars = axis.bar([f"{i} {name}" for i, name in enumerate(names)], counts, color="tab:orange")
axis.bar_label(bars)
axis.set(ylabel="operations", ylim=(0, 1.12 * max(counts)))
axis.set_title("each pass that changed the program")
axis.tick_params(axis="x", rotation=20)
plt.show()

# %% [markdown]
# Why so many fewer? Each pass says what it did. Here is one remark of every kind, and how often
# it was said. `net.report(remarks=True)` lists all of them.

# %%
said = {}
for remark in (r for s in net.stages for r in s.remarks):
    said.setdefault((remark.pass_, remark.rule, remark.kind.value), []).append(remark)
for (name, _, kind), remarks in said.items():
    print(f"{len(remarks):>3} x {name} {kind}, e.g. {remarks[0].what}: {remarks[0].reason}")

# %% [markdown]
# ## The explorer
#
# Everything at once: every stage beside the next one, the model's source, the code that was made,
# the times of the units. Choose a unit, search for a layer, compare two stages.
# `net.explore("report.html")` writes the same as one file that needs no network.

# %%
net.explore()
