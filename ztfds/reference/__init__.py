"""Reference images (P7): selection of inputs, co-addition, catalogs, quality."""
