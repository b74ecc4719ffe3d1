"""How pods end when their run's launcher does not end them, or nobody can tell that it did."""
