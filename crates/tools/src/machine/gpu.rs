//! Accelerators on the PCI bus, with what the kernel's drivers say about them.

use serde::Serialize;

use super::Files;

/// One accelerator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Gpu {
    /// Who made it.
    pub vendor: Vendor,
    /// The driver's name for it, or the PCI ids.
    pub name: String,
    /// Bus address.
    pub address: String,
    /// Memory in bytes, where the driver or the name tells.
    pub memory: Option<u64>,
    /// Driver bound to it; none means that nothing can use it.
    pub driver: Option<String>,
}

/// Makers of accelerators.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// NVIDIA.
    Nvidia,
    /// AMD.
    Amd,
    /// Intel.
    Intel,
    /// Apple.
    Apple,
}

impl Vendor {
    /// The name as people write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Nvidia => "NVIDIA",
            Self::Amd => "AMD",
            Self::Intel => "Intel",
            Self::Apple => "Apple",
        }
    }
}

/// Memory (GiB) and read bandwidth (GB/s) by a part of the product's name; the first match
/// counts. From the vendors' data sheets.
const KNOWN: [(&str, u64, f64); 15] = [
    ("B200", 180, 8000.0),
    ("H200", 141, 4800.0),
    ("H100 PCIe", 80, 2000.0),
    ("H100", 80, 3350.0),
    ("A100-PCIE-40", 40, 1555.0),
    ("A100", 80, 2039.0),
    ("RTX PRO 6000", 96, 1792.0),
    ("GB10", 128, 273.0),
    ("L40S", 48, 864.0),
    ("RTX 5090", 32, 1792.0),
    ("RTX 4090", 24, 1008.0),
    ("RTX 3090", 24, 936.0),
    ("MI300X", 192, 5300.0),
    ("L4", 24, 300.0),
    ("T4", 16, 320.0),
];

impl Gpu {
    /// Read bandwidth in GB/s by the data sheet, for products known here.
    pub fn bandwidth(&self) -> Option<f64> {
        known(&self.name).map(|(_, bandwidth)| bandwidth)
    }

    pub(super) fn read_all(files: &Files) -> Vec<Self> {
        let base = "sys/bus/pci/devices";
        files.names(base).iter().filter_map(|address| Self::read(files, base, address)).collect()
    }

    fn read(files: &Files, base: &str, address: &str) -> Option<Self> {
        let text = |file: &str| files.text(&format!("{base}/{address}/{file}"));
        // Display controllers have class 0x03, processing accelerators 0x12.
        let class = text("class")?;
        if !(class.starts_with("0x03") || class.starts_with("0x12")) {
            return None;
        }
        let ids = (text("vendor")?, text("device").unwrap_or_default());
        let vendor = match ids.0.as_str() {
            "0x10de" => Vendor::Nvidia,
            "0x1002" => Vendor::Amd,
            "0x8086" => Vendor::Intel,
            _ => return None,
        };
        let information = files.text(&format!("proc/driver/nvidia/gpus/{address}/information"));
        let model = information.as_deref().and_then(|text| {
            text.lines().find_map(|line| Some(line.strip_prefix("Model:")?.trim().to_owned()))
        });
        let name = model
            .or_else(|| text("product_name").filter(|name| !name.is_empty()))
            .unwrap_or_else(|| format!("{} device {}", vendor.name(), ids.1));
        let driver = text("uevent").and_then(|text| {
            text.lines().find_map(|line| Some(line.strip_prefix("DRIVER=")?.to_owned()))
        });
        let memory = text("mem_info_vram_total").and_then(|bytes| bytes.parse().ok());
        let memory = memory.or_else(|| known(&name).map(|(gib, _)| gib << 30));
        Some(Self { vendor, name, address: address.to_owned(), memory, driver })
    }
}

fn known(name: &str) -> Option<(u64, f64)> {
    let found = KNOWN.iter().find(|(part, _, _)| name.contains(part));
    found.map(|(_, gib, bandwidth)| (*gib, *bandwidth))
}

#[cfg(test)]
mod tests {
    use super::super::tests::laid_out;
    use super::*;

    #[test]
    fn accelerators_are_told_from_other_devices() {
        let pci = "sys/bus/pci/devices";
        let nvidia = "proc/driver/nvidia/gpus/0000:01:00.0/information";
        let (_dir, files) = laid_out(&[
            (&format!("{pci}/0000:01:00.0/class"), "0x030200"),
            (&format!("{pci}/0000:01:00.0/vendor"), "0x10de"),
            (&format!("{pci}/0000:01:00.0/device"), "0x2335"),
            (&format!("{pci}/0000:01:00.0/uevent"), "DRIVER=nvidia\nPCI_ID=10DE:2335\n"),
            (nvidia, "Model: \t\t NVIDIA H200\nIRQ: 42\n"),
            (&format!("{pci}/0000:02:00.0/class"), "0x030000"),
            (&format!("{pci}/0000:02:00.0/vendor"), "0x1002"),
            (&format!("{pci}/0000:02:00.0/device"), "0x1586"),
            (&format!("{pci}/0000:02:00.0/mem_info_vram_total"), "103079215104"),
            (&format!("{pci}/0000:03:00.0/class"), "0x020000"),
            (&format!("{pci}/0000:03:00.0/vendor"), "0x10de"),
        ]);
        let gpus = Gpu::read_all(&files);
        assert_eq!(gpus.len(), 2);
        assert_eq!((gpus[0].name.as_str(), gpus[0].memory), ("NVIDIA H200", Some(141 << 30)));
        assert_eq!(gpus[0].driver.as_deref(), Some("nvidia"));
        assert_eq!(gpus[0].bandwidth(), Some(4800.0));
        assert_eq!((gpus[1].vendor, gpus[1].memory), (Vendor::Amd, Some(96 << 30)));
        assert_eq!(gpus[1].driver, None);
    }
}
