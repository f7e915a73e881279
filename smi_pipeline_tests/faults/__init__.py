"""The shop meets faults that hit every order: at most three orders may be lost, and a person is told once.

`make faults SEED=1` draws 200 faults. Services and gateway run in one process against a real PostgreSQL and the
sandbox; the state's clock is moved as soon as nothing is left to do.
"""
