"""``sensor run``: the supervisor, its workers, and the child processes beside them."""
