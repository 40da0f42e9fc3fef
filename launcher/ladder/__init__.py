"""A ladder: small runs of one config, planned for a target, trained as a sweep, and the forecast through them."""
