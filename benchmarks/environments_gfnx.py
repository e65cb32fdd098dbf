"""The worker of `benchmarks.environments` for gfnx: its rollout and environments, TB as its own baseline has it.

A block of steps is one compiled loop, so that nothing but the arithmetic is timed; steps called one by one from Python,
as torchgfn's comparison does, are slower.
"""

from typing import Any

import equinox as eqx
import gfnx
import jax
import jax.numpy as jnp
import optax

from benchmarks.environments_worker import Case, Session, serve


class Policies(eqx.Module):  # type: ignore[misc]
    """P_F and P_B as two parts of one output."""

    network: eqx.nn.MLP
    forward_actions: int

    def __call__(self, observation: jax.Array) -> tuple[jax.Array, jax.Array]:
        forward, backward = jnp.split(self.network(observation), [self.forward_actions])
        return forward, backward


def environment(case: Case) -> Any:
    if case.kind == "hypergrid":
        reward = gfnx.reward.GeneralHypergridRewardModule(R0=0.1, R1=0.5, R2=2.0)
        return gfnx.HypergridEnvironment(reward, dim=case.dimensions, side=case.side)
    reward = gfnx.BitseqRewardModule(
        sentence_len=case.length, k=case.word, mode_set_size=case.modes, reward_exponent=2.0
    )
    return gfnx.BitseqEnvironment(reward, n=case.length, k=case.word)


def session(case: Case) -> Session:
    env = environment(case)
    env_params = env.init(jax.random.PRNGKey(1))
    model = Policies(
        eqx.nn.MLP(
            in_size=env.observation_space.shape[0],
            out_size=env.action_space.n + env.backward_action_space.n,
            width_size=case.hidden,
            depth=case.layers,
            key=jax.random.PRNGKey(0),
        ),
        env.action_space.n,
    )
    learned, fixed = eqx.partition(model, eqx.is_array)
    params = {"policies": learned, "log_z": jnp.array(0.0)}
    labels = {"policies": jax.tree.map(lambda _: "policies", learned), "log_z": "log_z"}
    optimiser = optax.multi_transform({"policies": optax.adam(case.lr), "log_z": optax.adam(case.lr_log_z)}, labels)

    def read(policies: Any, observations: Any) -> dict[str, jax.Array]:
        forward, backward = jax.vmap(eqx.combine(policies, fixed))(observations)
        return {"forward_logits": forward, "backward_logits": backward}

    def policy(_: Any, observations: Any, policies: Any) -> tuple[jax.Array, dict[str, jax.Array]]:
        said = read(policies, observations)
        return said["forward_logits"], said

    def loss(params: Any, trajectories: Any) -> jax.Array:
        said = jax.vmap(lambda observations: read(params["policies"], observations))(trajectories.obs)
        said = trajectories.replace(info=said)
        log_pf, log_pb = gfnx.utils.forward_trajectory_log_probs(env, said, env_params)
        log_reward = jnp.where(trajectories.pad, 0.0, trajectories.log_gfn_reward).sum(1)
        return jnp.mean((params["log_z"] + log_pf - log_pb - log_reward) ** 2)

    def step(_: Any, state: Any) -> Any:
        key, params, opt_state, edges = state
        key, now = jax.random.split(key)
        trajectories, about = gfnx.utils.forward_rollout(now, case.batch, policy, params["policies"], env, env_params)
        updates, opt_state = optimiser.update(jax.grad(loss)(params, trajectories), opt_state, params)
        length = about["trajectory_length"].sum()
        return key, optax.apply_updates(params, updates), opt_state, edges + length

    block = jax.jit(lambda state, iterations: jax.lax.fori_loop(0, iterations, step, (*state, 0)))
    start = (jax.random.PRNGKey(2), params, optimiser.init(params))
    # With dtypes that are certain, as a block's results have them: or the second block would be compiled anew.
    state = jax.tree.map(lambda leaf: jnp.array(leaf, dtype=leaf.dtype), start)

    def advance(iterations: int) -> float:
        nonlocal state
        *state, edges = jax.block_until_ready(block(tuple(state), iterations))
        return int(edges) / iterations / case.batch

    return Session(advance, sum(leaf.size for leaf in jax.tree.leaves(params)))


if __name__ == "__main__":
    serve(session, ["gfnx", "jax", "equinox", "optax"])
