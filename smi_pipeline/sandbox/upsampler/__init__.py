"""The Upsampler sandbox: API in both formats, image processing and CDN."""
