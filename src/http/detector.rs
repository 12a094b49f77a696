//! `detector` and `phi_threshold` of a registration: by which rule a silence counts as a death. Called by the handler of
//! registrations.

use super::fields::Fields;
use crate::domain::Detector;
use crate::domain::limits::{
    PHI_THRESHOLD_DEFAULT_MILLI, PHI_THRESHOLD_MAX_MILLI, PHI_THRESHOLD_MIN_MILLI,
};

/// The words of `detector`.
pub(super) const DETECTORS: &[&str] = &["fixed", "phi"];

/// Reads both; what is wrong with them is noted.
pub(super) fn read(fields: &mut Fields<'_>) -> Detector {
    let find = |text: &str| DETECTORS.iter().copied().find(|known| *known == text);
    let detector = fields.word("detector", DETECTORS, find, |word| word);
    let threshold = fields.number("phi_threshold");
    match (detector, threshold) {
        (Some("phi"), threshold) => {
            let threshold = threshold.unwrap_or(f64::from(PHI_THRESHOLD_DEFAULT_MILLI) / 1_000.0);
            Detector::phi(threshold).unwrap_or_else(|| {
                let (least, most) =
                    (PHI_THRESHOLD_MIN_MILLI / 1_000, PHI_THRESHOLD_MAX_MILLI / 1_000);
                fields.invalid(
                    "phi_threshold",
                    format!("must be {least} to {most}, was {threshold}"),
                );
                Detector::Fixed
            })
        }
        (_, Some(_)) => {
            fields.invalid("phi_threshold", "is for \"detector\": \"phi\" only; leave it out");
            Detector::Fixed
        }
        (_, None) => Detector::Fixed,
    }
}
