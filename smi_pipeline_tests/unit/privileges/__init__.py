"""What users of the machine can and cannot do to each other through the product."""
