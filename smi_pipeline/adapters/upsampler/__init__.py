"""The Upsampler API: the client and its two API formats."""
