"""The cost of layouts, by arithmetic: memory, traffic and time on a machine that a file describes. No rank is needed.

    from parallel.planning.machine import load_machine
    from parallel.planning.plan import make_plan

`machine` reads a machine file, `shape` has the numbers of one step, `work` counts what the device does, `traffic` what
it sends, `step_time` what both take, `memory` what a rank holds. `plan` makes a plan of all layouts that can be, with
`candidates` to enumerate them, and `reasons` says why the first one is first.
"""
