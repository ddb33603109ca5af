"""Reading and writing files: FITS, Avro, catalogs and manifests; atomic and checksummed."""
