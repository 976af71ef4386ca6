"""One module a verb of the ``samtune`` command; each is a thin layer over a public function."""
