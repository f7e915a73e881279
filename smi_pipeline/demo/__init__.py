"""`smi demo`: run the whole shop on this machine, with customers and faults, and judge the result.

Nothing here reads the pipeline's tables: progress comes from the public API, the verdict from the sandbox's ledgers,
the mailboxes and the downloads.
"""
