"""What ranks say to each other: the verbs, on MPI and on simulated networks."""
