"""Local servers in place of the external services: Upsampler, Stripe, a mail server and an image origin.

Start them with ``python -m smi_pipeline.sandbox --state DIR``, or in a test with :class:`Sandbox` of
``smi_pipeline.sandbox.server``. Nothing here imports another package of smi_pipeline, so that no misreading of an API
is shared by both sides.
"""
