"""Infinite feature selection: how much each of some features is worth among the others."""

import torch


def inf_fs(features, alpha):
    """Infinite feature selection (Roffo et al. 2015) of features ``[N, F]``: what each is worth, ``[F]``.

    ``((I - r A)^-1 - I) 1``, r = 0.9 / rho(A), ``A_ij = alpha max(std_i, std_j) + (1 - alpha) (1 - |spearman_ij|)``.
    """
    columns = features.double().T.contiguous()
    ordered, std = columns.sort(dim=1).values, columns.std(dim=1)
    ranks = (torch.searchsorted(ordered, columns) + torch.searchsorted(ordered, columns, right=True)).double()
    ranks -= ranks.mean(dim=1, keepdim=True)
    ranks /= ranks.norm(dim=1, keepdim=True).clamp(min=1e-12)  # a constant feature correlates with none
    graph = alpha * torch.maximum(std[:, None], std) + (1 - alpha) * (1 - (ranks @ ranks.T).abs())
    radius = torch.linalg.eigvalsh(graph).abs().max().clamp(min=1e-12)
    return torch.linalg.solve(torch.eye(len(std)).to(graph) - 0.9 / radius * graph, torch.ones_like(std)) - 1
