import hashlib

from samtune.preprocessing.source_hash import source_sha256


def test_one_file_has_its_own_hash(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    assert source_sha256([tmp_path / "a"]) == hashlib.sha256(b"x").hexdigest()


def test_several_files_and_folders_change_with_content_name_and_order(tmp_path):
    (tmp_path / "one/s").mkdir(parents=True)
    for name in ("a", "s/b", ".hidden"):
        (tmp_path / "one" / name).write_text(name)
    series = tmp_path / "one"
    first = source_sha256([series])
    assert first == source_sha256([series])
    (series / ".hidden").write_text("else")
    assert first == source_sha256([series])
    (series / "s/b").rename(series / "s/c")
    renamed = source_sha256([series])
    (series / "s/c").write_text("z")
    files = [series / "a", series / "s/c"]
    hashes = {
        first,
        renamed,
        source_sha256([series]),
        source_sha256(files),
        source_sha256(files[::-1]),
    }
    assert len(hashes) == 5
