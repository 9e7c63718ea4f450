"""The caretaker: places, starts, watches, restarts and stops the other processes.

`placement` and `core` decide and touch nothing; `machine`, `children`, `probe` and
`supervisor` touch the world and decide nothing. Not on the data path of any request.
"""
