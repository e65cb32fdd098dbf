"""How policies are judged; what needs an extra names it when it is first used."""

from typing import TYPE_CHECKING

from gflowdial.faces import lazy_face

if TYPE_CHECKING:
    from gflowdial.metrics.certificates import (
        Certificate,
        SampledCertificate,
        StoppingRule,
        certificate,
        sampled_certificate,
    )
    from gflowdial.metrics.correlation import pearson, spearman
    from gflowdial.metrics.discovery import modes_found, top_k, top_k_diversity, top_k_log_reward
    from gflowdial.metrics.distances import jensen_shannon_divergence, kl_divergence, l1_distance, total_variation
    from gflowdial.metrics.evidence import elbo, eubo, log_weights
    from gflowdial.metrics.strategy import (
        accuracy,
        macro_f1,
        measures_of_confusions,
        preference_bias,
        strategy_preferences,
    )

__all__ = ["Certificate", "SampledCertificate", "StoppingRule", "certificate", "sampled_certificate"]
__all__ += ["pearson", "spearman"]
__all__ += ["modes_found", "top_k", "top_k_diversity", "top_k_log_reward"]
__all__ += ["jensen_shannon_divergence", "kl_divergence", "l1_distance", "total_variation"]
__all__ += ["elbo", "eubo", "log_weights"]
__all__ += ["accuracy", "macro_f1", "measures_of_confusions", "preference_bias", "strategy_preferences"]

__getattr__, __dir__ = lazy_face(
    __name__,
    {
        "certificates": ["Certificate", "SampledCertificate", "StoppingRule", "certificate", "sampled_certificate"],
        "correlation": ["pearson", "spearman"],
        "discovery": ["modes_found", "top_k", "top_k_diversity", "top_k_log_reward"],
        "distances": ["jensen_shannon_divergence", "kl_divergence", "l1_distance", "total_variation"],
        "evidence": ["elbo", "eubo", "log_weights"],
        "strategy": ["accuracy", "macro_f1", "measures_of_confusions", "preference_bias", "strategy_preferences"],
    },
)
