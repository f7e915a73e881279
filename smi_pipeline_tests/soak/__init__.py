"""`make soak`: thousands of orders through the real stack, while every service of the sandbox fails at random.

The verdict comes from the sandbox's ledgers, the customers' mailboxes and the files behind their links. Of the product
only the list of manual tasks is read: they are the correct outcome of what no program can settle.
"""
