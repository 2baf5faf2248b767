# %% [markdown]
# # Schedule, arena and profile
#
# What does a compiled network do while it runs? It calls kernels one after another, each on all
# threads, over one block of memory. This notebook looks at the order, the memory and the time,
# for EfficientNet-Lite0 on a photo.

# %%
import itertools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Rectangle

import leptonc
from leptonc import demo
from leptonc.show import amounts, summary

model, photos = demo.load_model(), demo.load_photos()
photo = photos.images[:1]
net = leptonc.compile(model, photo)
plan = net.schedule
print(f"{len(plan.units)} units, {len(plan.steps)} steps, {plan.threads} thread(s)")

# %% [markdown]
# ## The schedule
#
# A *unit* is a group of operations that runs as one. A *step* is one call of a kernel; some units
# take several, to bring data into the order that the main kernel wants. Between steps the threads
# wait for each other (a *barrier*) where the next step needs what all of them made.

# %%
for i, step in enumerate(plan.steps[:8]):
    unit = plan.units[step.unit].name
    print(f"step {i}: {step.kernel.name.partition('[')[0]:<12} for {unit}")
barriers = sum(s.barrier for s in plan.steps)
print(f"...\nbarriers after {barriers} of {len(plan.steps)} steps")

# %% [markdown]
# The schedule is also a readable Python module. It fills in one record of numbers for each step;
# a call of the network then runs all of them natively, without Python in between.

# %%
for line in net.source.splitlines()[:30]:
    print(line if len(line) <= 100 else f"{line[:99]}…")

# %% [markdown]
# ## The arena
#
# Results between the steps live in one block of memory, the *arena*. When nobody reads a result
# any more, its place is free for another one. Below, each box is one result: from left to right
# the steps during which it is needed, from bottom to top where it lies. No two boxes overlap.

# %%
MIB = 2**20
lives = summary.lives(plan)
figure, axis = plt.subplots(figsize=(11, 4))
colors = itertools.cycle(plt.get_cmap("tab20").colors)
for life, color in zip(lives, colors, strict=False):
    corner, width = (life.first, life.offset / MIB), life.last - life.first + 1
    axis.add_patch(Rectangle(corner, width, life.nbytes / MIB, facecolor=color, edgecolor="white"))
axis.axhline(plan.lower_bound / MIB, color="black", linestyle=":", label="largest live set")
axis.set(xlim=(0, len(plan.steps)), ylim=(0, 1.08 * plan.arena_bytes / MIB))
axis.set(xlabel="step", ylabel="place in the arena, MiB", title=f"{len(lives)} results, one arena")
axis.legend()
plt.show()

for a, b in itertools.combinations(lives, 2):
    together = a.first <= b.last and b.first <= a.last
    assert not together or a.offset + a.nbytes <= b.offset or b.offset + b.nbytes <= a.offset

# %% [markdown]
# How good is that? At every moment the results that are needed must lie somewhere: the largest
# sum of them, the *largest live set*, is the least that any arrangement could do with.

# %%
live = np.zeros(len(plan.steps))
for life in lives:
    live[life.first : life.last + 1] += life.nbytes / MIB
figure, axis = plt.subplots(figsize=(11, 2.6))
axis.step(range(len(live)), live, where="post", color="tab:orange", label="needed at this step")
axis.axhline(plan.arena_bytes / MIB, color="black", linewidth=1, label="arena")
axis.set(xlabel="step", ylabel="MiB", ylim=0, xlim=(0, len(live)))
axis.legend()
plt.show()
for what, size in (
    ("all results side by side", plan.sum_bytes),
    ("the arena", plan.arena_bytes),
    ("the largest live set", plan.lower_bound),
):
    print(f"{what:<25} {amounts.nbytes(size):>10}")

# %% [markdown]
# ## The profile
#
# `net.profile` runs the network for about a second with a clock around every step. The table has
# a line for each unit: its time, its share, its speed, and how that compares with what this
# machine was measured to do at most.

# %%
profile = net.profile(photo)
profile

# %% [markdown]
# Where does the time go? The units in order of their time, and how much the first ones make up.

# %%
ranked = sorted(profile.units, key=lambda u: -u.us)
figure, axis = plt.subplots(figsize=(11, 3.4))
axis.bar(range(len(ranked)), [u.us for u in ranked], color="tab:orange")
axis.set(xlabel="unit, slowest first", ylabel="microseconds")
total = axis.twinx()
total.plot(np.cumsum([100 * u.share for u in ranked]), color="tab:blue")
total.set(ylabel="% of the time so far", ylim=(0, 105))
plt.show()
top = sum(u.share for u in ranked[:10])
print(f"the ten slowest of {len(ranked)} units take {top:.0%} of the time")
for u in ranked[:5]:
    print(f"  {u.us:7.1f} us  {u.name}")

# %% [markdown]
# ## What limits a unit?
#
# A unit can be no faster than the machine computes, and no faster than memory brings its data.
# The line in the picture, the roof, is both: on the left memory is the limit, on the right
# arithmetic. A dot far below the roof has something else that holds it back. A dot above the
# sloping roof got its data from the caches, which are faster than memory. The slowest units carry
# their number in the table.

# %%
native = [u for u in profile.units if u.flops and u.us > 0]
intensity = np.array([u.flops / u.bytes for u in native])
speed = np.array([u.gflops for u in native])
corner = profile.limits.gflops / profile.limits.gbytes
x = np.array([min(intensity.min(), corner) / 2, corner, max(intensity.max(), corner) * 2])
roof = np.minimum(profile.limits.gflops, x * profile.limits.gbytes)

figure, axis = plt.subplots(figsize=(9, 4.4))
axis.loglog(x, roof, color="black", linewidth=1)
axis.scatter(intensity, speed, s=[4 + 600 * u.share for u in native], color="tab:orange", alpha=0.7)
for u in ranked[:3]:
    if u in native:
        place = (u.flops / u.bytes, u.gflops)
        axis.annotate(str(u.index), place, (7, 0), textcoords="offset points", va="center")
axis.set(xlabel="operations per byte", ylabel="10^9 operations a second")
axis.set_title("each dot is a unit, as large as its share of the time")
plt.show()
print(f"measured peak: {profile.limits.gflops:.0f} GF/s, memory: {profile.limits.gbytes:.0f} GB/s")
print(f"the whole network: {profile.gflops:.0f} GF/s")

# %% [markdown]
# ## Who waits?
#
# One run, thread by thread: a box is a thread at work on a step, a gap is a thread that waits.
# `profile.chrome_trace("trace.json")` writes this for ui.perfetto.dev.

# %%
figure, axis = plt.subplots(figsize=(11, 0.9 + 0.7 * profile.threads))
palette = plt.get_cmap("tab20").colors
for span in profile.spans:
    axis.barh(
        span.thread,
        span.end_us - span.begin_us,
        left=span.begin_us,
        color=palette[span.step % len(palette)],
        height=0.8,
    )
axis.set(yticks=range(profile.threads), ylabel="thread", xlabel="microseconds since the run began")
plt.show()
print(f"{profile.wait_share:.0%} of the threads' time is waiting")
