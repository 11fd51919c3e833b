"""The gang: processes of ranks on Dask workers, from their slots to their end."""
