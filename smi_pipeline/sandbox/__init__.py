"""Stand-ins of the outside services: Upsampler, Stripe, a mail server and an image origin, as real servers.

Start them with ``python -m smi_pipeline.sandbox --state DIR``, or in a test with :class:`Sandbox` of
``smi_pipeline.sandbox.server``. Nothing here imports another package of smi_pipeline, so that a misreading of a
contract cannot hide on both sides.
"""
