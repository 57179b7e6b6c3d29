"""A local web page to sample from checkpoints: requests, drawings, and the page that joins them."""
