"""The cost of layouts, by arithmetic: memory, traffic and time on a machine that a file describes. No rank is needed.

    from parallel.planning.layout_plan import make_plan
    from parallel.planning.machine_file import load_machine

`machine_file` reads a machine file, `shape` has the numbers of one step, `work` counts what the device does, `traffic`
what it sends, `step_time` what both take, `memory` what a rank holds. `layout_plan` plans all layouts that can be, with
`candidates` to enumerate them, and `reasons` says why the first one is first.
"""
