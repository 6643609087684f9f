import pickle

from laser_dist.errors import UserError, nearest


def test_an_error_survives_pickling_with_its_message_and_hint():
    error = pickle.loads(pickle.dumps(UserError("File a is empty.", hint="Replace it.")))
    assert (error.message, error.hint) == ("File a is empty.", "Replace it.")
    assert str(error) == "File a is empty.\nhint: Replace it."
    assert str(UserError("File a is empty.")) == "File a is empty."


def test_the_nearest_name_is_suggested_and_only_if_it_is_near():
    names = ["heads.epochs", "heads.batch_size", "seed"]
    assert nearest("heads.epoch", names) == 'Did you mean "heads.epochs"?'
    assert nearest("quality", names) == ""
