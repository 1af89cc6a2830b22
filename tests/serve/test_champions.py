from recorded import Recorded, stream

from lifelong.serve.champions import Champions


def test_a_version_answers_as_it_did_as_long_as_its_files_are_there(tmp_path):
    with Recorded(tmp_path, stream(120)) as service:
        version = service.version()
        x, y, task = service.trainer.anchors.rows(service.trainer.anchors.groups[0])
        right = service.trainer.learner.predict(x).argmax(1) == y
        champions = Champions(service.state, service.config.factory())
        assert champions.accuracy(version.number, x, y, task) == float(right.double().mean())
        assert champions.accuracy(7, x, y, task) is None
        path = version.folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-1])
        assert champions.accuracy(version.number, x, y, task) is None
