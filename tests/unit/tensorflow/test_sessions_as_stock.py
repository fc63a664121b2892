"""One program with graphs and sessions, run with TensorFlow's classes and with ours, ends alike.

The cases follow what TensorFlow's own tests of the Saver, of its hook and of monitored sessions look at.
"""

from __future__ import annotations

import os

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from tests.unit.tensorflow.beside import OURS, STOCK, files

v1 = tf.compat.v1


def two_variables(side, at, session):
    variables = [v1.get_variable(name, initializer=value) for name, value in (("x", 1.0), ("y", 2.0))]
    session.run(v1.global_variables_initializer())
    return variables


def in_new_graph(use):
    with tf.Graph().as_default() as graph, v1.Session() as session:
        return use(graph, session)


def savers_of_a_collection(side, at):
    def save(graph, session):
        for variable in two_variables(side, at, session):
            saver = side.Saver({variable.op.name: variable}, name=f"save_{variable.op.name}")
            v1.add_to_collection("savers", saver)
            saver.save(session, f"{at}/{variable.op.name}")
        v1.train.export_meta_graph(f"{at}/graph")

    def restore(graph, session):
        side.import_meta_graph(f"{at}/graph")
        seen = []
        for name, saver in zip("xy", v1.get_collection("savers"), strict=True):
            saver.restore(session, f"{at}/{name}")
            seen.append([float(session.run(each)) for each in v1.global_variables()[: len(seen) + 1]])
        return seen

    in_new_graph(save)
    return in_new_graph(restore)


def part_of_a_graph(side, at):
    def export(graph, session):
        with v1.name_scope("hidden"):
            v1.Variable([1.0, 2.0], name="w", use_resource=False)
        side.Saver().export_meta_graph(f"{at}/part", export_scope="hidden")

    def load(graph, session):
        side.import_meta_graph(f"{at}/part", import_scope="new")
        return sorted(each.name for each in graph.get_operations() if not each.name.startswith("save"))

    in_new_graph(export)
    return in_new_graph(load)


def the_same_graph_twice(side, at):
    def build(graph, session):
        two_variables(side, at, session)
        side.Saver()
        return graph.as_graph_def()

    return in_new_graph(build) == in_new_graph(build), len(in_new_graph(build).node)


def averages(side, at):
    def save(graph, session):
        x, _ = two_variables(side, at, session)
        average = tf.train.ExponentialMovingAverage(0.5)
        update = average.apply([x])
        session.run(v1.global_variables_initializer())
        session.run(x.assign(3.0))
        session.run(update)
        return side.Saver().save(session, f"{at}/m")

    def restore(graph, session):
        x = v1.get_variable("x", shape=())
        names = tf.train.ExponentialMovingAverage(0.5).variables_to_restore([x])
        side.Saver(names).restore(session, path)
        return sorted(names), float(session.run(x))

    path = in_new_graph(save)
    return in_new_graph(restore)


def an_optimizer_that_goes_on(side, at):
    def train(graph, session):
        x = v1.get_variable("x", initializer=1.0)
        step = v1.train.get_or_create_global_step()
        minimize = v1.train.AdamOptimizer(0.1).minimize(x * x, global_step=step)
        saver, latest = side.Saver(), tf.train.latest_checkpoint(at)
        if latest is None:
            session.run(v1.global_variables_initializer())
        else:
            saver.restore(session, latest)
        for _ in range(3):
            session.run(minimize)
        return saver.save(session, f"{at}/m", global_step=step), float(session.run(x))

    return [in_new_graph(train) for _ in range(2)]


def a_warm_start(side, at):
    def save(graph, session):
        two_variables(side, at, session)
        side.Saver().save(session, f"{at}/m", global_step=1)

    def start(graph, session):
        x, z = v1.get_variable("x", initializer=5.0), v1.get_variable("z", initializer=5.0)
        v1.train.warm_start(at, vars_to_warm_start="x")
        v1.train.init_from_checkpoint(at, {"y": z})
        session.run(v1.global_variables_initializer())
        return session.run([x, z])

    in_new_graph(save)
    return in_new_graph(start)


def a_session_manager(side, at):
    def prepare(graph, session):
        x = v1.get_variable("x", initializer=1.0)
        saver = side.Saver()
        found = v1.train.SessionManager().prepare_session(
            "", init_op=v1.global_variables_initializer(), saver=saver, checkpoint_dir=at
        )
        value = float(found.run(x))
        found.run(x.assign(value + 4))
        saver.save(found, f"{at}/m", global_step=1)
        return value

    return [in_new_graph(prepare) for _ in range(2)]


def with_another_graphs_session(use):
    def case(side, at):
        with tf.Graph().as_default(), v1.Session() as session:
            two_variables(side, at, session)
            saver = side.Saver()
            saver.save(session, f"{at}/m")

        def in_another(graph, session):
            tf.constant(1.0)
            use(saver, session, f"{at}/m")

        return in_new_graph(in_another)

    return case


class Stops(v1.train.CheckpointSaverListener):
    """Notes what it is told, and asks to stop after the save of one step."""

    def __init__(self, at_step):
        self.at_step, self.told = at_step, []

    def begin(self):
        self.told.append("begin")

    def before_save(self, session, global_step_value):
        self.told.append(f"before {global_step_value}")

    def after_save(self, session, global_step_value):
        self.told.append(f"after {global_step_value}")
        return global_step_value == self.at_step

    def end(self, session, global_step_value):
        self.told.append(f"end {global_step_value}")


class Fails(v1.train.SessionRunHook):
    """Raises once, in the third step."""

    def __init__(self, error):
        self.error, self.runs = error, 0

    def after_run(self, run_context, run_values):
        self.runs += 1
        if self.runs == 3:
            raise self.error


def monitored(failure=None, stops_at=None, own_hook=False, **options):
    """Five steps in a monitored session; what is listed then, what the steps were, what the listener heard."""

    def case(side, at):
        steps, listener = [], Stops(stops_at)
        with tf.Graph().as_default():
            v1.get_variable("x", initializer=1.0)
            step = v1.train.get_or_create_global_step()
            train = v1.assign_add(step, 1)
            hooks = [side.Hook(at, listeners=[listener], **options)] if not own_hook else []
            hooks += [] if failure is None else [Fails(failure)]
            scaffold = v1.train.Scaffold(saver=side.Saver(max_to_keep=3)) if own_hook else None
            creator = v1.train.ChiefSessionCreator(scaffold, checkpoint_dir=at)
            if own_hook:
                hooks.append(v1.train.CheckpointSaverHook(at, scaffold=scaffold, listeners=[listener], **options))
            try:
                with v1.train.MonitoredSession(session_creator=creator, hooks=hooks) as session:
                    while len(steps) < 5 and not session.should_stop():
                        steps.append(int(session.run(train)))
            except KeyError as error:
                steps.append(repr(error))
        state = v1.train.get_checkpoint_state(at)
        return steps, listener.told, state and list(state.all_model_checkpoint_paths)

    return case


ALIKE = {
    "savers of a collection": savers_of_a_collection,
    "a part of a graph": part_of_a_graph,
    "the same graph twice": the_same_graph_twice,
    "averages in place of variables": averages,
    "an optimizer that goes on": an_optimizer_that_goes_on,
    "a warm start": a_warm_start,
    "a session manager": a_session_manager,
    "saving another graph's session": with_another_graphs_session(lambda saver, *given: saver.save(*given)),
    "restoring another graph's session": with_another_graphs_session(lambda saver, *given: saver.restore(*given)),
    "every second step": monitored(save_steps=2),
    "rarer than the training is long": monitored(save_steps=10),
    "by time": monitored(save_secs=600),
    "always": monitored(save_steps=0),
    "both ways": monitored(save_steps=1, save_secs=1),
    "another name": monitored(save_steps=2, checkpoint_basename="a:b c"),
    "without the graph": monitored(save_steps=2, save_graph_def=False),
    "a listener that stops the training": monitored(stops_at=2, save_steps=2),
    "a step that fails": monitored(KeyError("x"), save_steps=2),
    "a step that fails and is done again": monitored(tf.errors.AbortedError(None, None, "x"), save_steps=1),
    "the session's own hook": monitored(own_hook=True, save_steps=1),
}


@pytest.mark.parametrize("case", ALIKE.values(), ids=ALIKE.keys())
def test_both_end_alike(tmp_path, case):
    seen = []
    for name, side in (("stock", STOCK), ("ours", OURS)):
        at = tmp_path / name
        at.mkdir()
        try:
            result = repr(case(side, str(at))).replace(str(at), "DIR")
        except (TypeError, ValueError, RuntimeError) as error:
            result = next(kind for kind in (TypeError, ValueError, RuntimeError) if isinstance(error, kind))
        seen.append((result, [each for each in files(at) if not each.startswith("events.")]))
    assert seen[1] == seen[0]
