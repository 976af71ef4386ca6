"""One module a file format; :mod:`samtune.preprocessing.volumes` is the door to all of them."""
