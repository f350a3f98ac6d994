# SPDX-License-Identifier: Apache-2.0
"""Why nobody waits for ever: the banker's criterion over vectors of devices, fast enough to be asked at every decision.

Only the ledger and those that explain its answers come in here; `index` is the door, `stakes` the definition in its
plainest form.

A state is *safe* if the containers can be put in an order in which each, given what is free plus what those before it
give back when they end, reaches its limit on every device it uses. The engine hands out free memory only so that every
container that could finish before can still finish after. From a safe state this is the banker's rule. From an unsafe
one, which only the outside can cause (memory taken by force, capacity lost), it is the most that can be promised.

**How much may container i get on device d?** Whether and when i can finish does not depend on it: what i gets, it
lacks less. So only those are bound that must finish before i is able to: each of them, at its turn, must find what it
lacks, although so much less is there. The answer is the largest *spare* with which enough containers finish for i to
find what it lacks; or, where i cannot finish anyway, with which all finish who can.

**Devices without the rule.** It may be off on some devices. There, what is free is handed out whatever follows. On the
others the rule means: as far as *these* devices are concerned, all containers could finish, one after another. A device
without the rule is left out of the vectors, as if it had enough for everybody. So it can be that containers wait for
each other for ever on a device without the rule; but never because of what was handed out on a device that has it, and
as soon as somebody resolves the one by hand, by ending a container, all others can finish on the other devices.

**How it is fast.** The definition looks at every container on every device. A decision looks at few of them:

- `region`: devices that no container connects do not concern each other;
- who can be the first to finish is bound by nobody: one comparison;
- `line`: what one device alone does not allow, from the few that lack least there, nothing else can make possible;
- `order`: an order in which all could finish changes little from one decision to the next. It is remembered in blocks,
  and one comparison tells that a whole block can still finish, or that none of it can;
- `wall`: what keeps all that wait on a device from getting anything usually outlasts many changes elsewhere.

All of these only save work. `sweep` puts them together and is exact, whatever they remember.
"""
