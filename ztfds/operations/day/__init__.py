"""The operators' day tasks: each does its work for a DAG of the same name and ends with one line of outcome."""
