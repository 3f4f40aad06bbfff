//! Where each member of a delta stands.

use super::Section;
use crate::document::DocumentError;
use crate::layout::{Layout, MemberKind};
use crate::manifest::Manifest;

/// Name of the member with the recipes: the second, so that a plan needs only the first bytes of the file.
pub const RECIPES_MEMBER: &str = "delta.recipes";

/// Lays out a delta: manifest, recipes, every index, every patch.
///
/// The sizes of recipes and patches are not signed. A wrong one leads to bytes that match no digest.
///
/// # Errors
/// When the sum of sizes overflows, or a section names no image.
pub fn delta_layout(
    envelope_len: u64,
    recipes_len: u64,
    manifest: &Manifest,
    sections: &[Section],
) -> Result<Layout, DocumentError> {
    let images = manifest.images.iter().enumerate();
    let recipes = (RECIPES_MEMBER.to_owned(), MemberKind::Recipes, None, recipes_len);
    let indexes =
        images.map(|(n, image)| (format!("{}.index", image.name), MemberKind::Index, Some(n), image.index.size));
    let patches = sections.iter().map(|section| {
        let n = section.image as usize;
        let image = manifest.images.get(n);
        let image = image.ok_or_else(|| DocumentError::Invalid("a section of no image".to_owned()))?;
        Ok((format!("{}.patch", image.name), MemberKind::Patch, Some(n), section.patch_size))
    });
    let patches = patches.collect::<Result<Vec<_>, DocumentError>>()?;
    Layout::stack(envelope_len, std::iter::once(recipes).chain(indexes).chain(patches))
}
