"""The arithmetic of proximal policy optimisation, on tensors of answers × tokens; a mask is 1 where an answer has a token."""

import torch

Tensor = torch.Tensor


def placed(scores: Tensor, told: Tensor, reference: Tensor, mask: Tensor, kl: float) -> Tensor:
    """Return each token's reward: minus `kl` times its log-ratio to the reference; an answer's score is its last token's.

    Ziegler et al. 2019, arXiv 1909.08593, equation 2.
    """
    rewards = -kl * (told - reference) * mask
    last = mask.sum(1).long() - 1
    return rewards.index_put((torch.arange(len(scores), device=scores.device), last), scores, accumulate=True)


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> Tensor:
    """Return generalised advantage estimates (Schulman et al. 2015, arXiv 1506.02438, equation 16), an answer's end being all."""
    found, ahead, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for at in reversed(range(rewards.shape[1])):
        surprise = rewards[:, at] + gamma * later - values[:, at]
        ahead = (surprise + gamma * lam * ahead) * mask[:, at]
        later = values[:, at] * mask[:, at]
        found[:, at] = ahead
    return found


def moments(values: Tensor, mask: Tensor) -> Tensor:
    """Return count, sum and sum of squares of what the mask leaves, to be added up over processes."""
    kept = values * mask
    return torch.stack([mask.sum(), kept.sum(), (kept * kept).sum()]).double()


def whitened(values: Tensor, mask: Tensor, totals: Tensor, shift: bool = True) -> Tensor:
    """Return values scaled to variance 1, and to mean 0 unless that is to stay; `totals` are the moments of all."""
    count, total, squares = totals.tolist()
    mean, variance = total / count, max(squares / count - (total / count) ** 2, 0.0)
    scaled = (values - mean) / (variance + 1e-8) ** 0.5
    return (scaled if shift else scaled + mean) * mask


def policy_loss(told: Tensor, before: Tensor, advantages: Tensor, clip: float) -> Tensor:
    """Return each token's clipped objective, negated (Schulman et al. 2017, arXiv 1707.06347, equation 7)."""
    ratio = (told - before).exp()
    return -torch.min(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)


def value_loss(values: Tensor, before: Tensor, returns: Tensor, clip: float) -> Tensor:
    """Return each token's squared error, or that of a value that is kept near the one before, if that is greater."""
    near = before + (values - before).clamp(-clip, clip)
    return 0.5 * torch.max((values - returns) ** 2, (near - returns) ** 2)


def next_kl(kl: float, measured: float, target: float | None, answers: int, horizon: int) -> float:
    """Return the coefficient that brings the divergence nearer to a target (Ziegler et al. 2019, section 2.2)."""
    if target is None:
        return kl
    error = min(max(measured / target - 1, -0.2), 0.2)
    return kl * (1 + error * answers / horizon)
