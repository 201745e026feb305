"""Between the notebook and the ranks, over ipyparallel: the only room that uses its private names."""
