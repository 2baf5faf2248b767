# %% [markdown]
# # Compress a model
#
# A network that reads digits is made several times smaller: half of its channels go, it learns
# anew from the network it was, and its weights become integers of 8 bits. Every lossy step stands
# in a *ledger*, with what it costs, and can be undone.
#
# Digits to train, to calibrate and to report on are not the same.

# %%
import time
from statistics import median

import matplotlib.pyplot as plt
import torch
from digits import load_digits, load_net

import leptonc

model = load_net()
images, labels = load_digits()
order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
batches = [(images[i], labels[i]) for i in order.split(50)]
training, calibration, report = batches[:30], batches[30:34], batches[60:]
x = calibration[0][0]

# %% [markdown]
# ## Prune
#
# Channels that depend on each other go together: those of a convolution and what the next layer
# reads of them.

# %%
small = leptonc.compress(model, x, leptonc.Prune(0.5))
small.ledger

# %% [markdown]
# ## Fine-tune
#
# What comes back is a module with a `state_dict`, and any optimizer trains it. `finetune` learns
# from the labels and from the scores of the teacher, the network that was pruned.


# %%
def accuracy(net) -> float:
    with torch.no_grad():
        right = sum(int((net(x).argmax(1) == y).sum()) for x, y in report)
    return right / sum(len(y) for _, y in report)


pruned = accuracy(small)
progress = leptonc.finetune(small, training, model, epochs=2, lr=1e-3, schedule="cosine")
print(progress)
print(f"original {accuracy(model):.1%}, pruned {pruned:.1%}, fine-tuned {accuracy(small):.1%}")

# %% [markdown]
# ## Quantize
#
# Scales of activations come from calibration data.

# %%
tiny = leptonc.compress(small, x, leptonc.Quantize(), data=[x for x, _ in calibration])
tiny.ledger

# %% [markdown]
# The last step is undone; the others stay.

# %%
last = len(tiny.ledger) - 1
print(tiny.ledger[last].where, tiny.ledger[last].what)
tiny.ledger.undo(last).ledger

# %% [markdown]
# ## What it gains
#
# All three are compiled, and timed in turns.

# %%
nets = {"original": model, "pruned": small, "pruned, int8": tiny}
compiled = {name: leptonc.compile(net, x) for name, net in nets.items()}
times = {name: [] for name in nets}
for _ in range(50):
    for name, net in compiled.items():
        start = time.perf_counter()
        net(x)
        times[name].append(1e3 * (time.perf_counter() - start))

ms = {name: median(found) for name, found in times.items()}
kib = {
    name: sum(t.numel() * t.element_size() for t in net.state_dict().values()) / 1024
    for name, net in nets.items()
}
right = {name: 100 * accuracy(net) for name, net in nets.items()}
figure, axes = plt.subplots(1, 3, figsize=(9, 2.6))
for axis, (title, values) in zip(
    axes, {"KiB": kib, "ms a batch of 50": ms, "% right": right}.items(), strict=True
):
    bars = axis.bar(list(values), list(values.values()), color=["#888", "#4a90d9", "#2ca02c"])
    axis.bar_label(bars, fmt="%.3g")
    axis.set_title(title)
    axis.tick_params(axis="x", labelrotation=15)
    axis.margins(y=0.15)
figure.tight_layout()
assert right["pruned, int8"] > right["original"] - 2
