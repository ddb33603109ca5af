"""What the simulated sky, telescope, camera and night are like: every number of the simulator that is not a survey constant."""

from __future__ import annotations

from pydantic import Field

from ztfds.config.base import StepConfig


class SkyConfig(StepConfig):
    """Stars, galaxies and moving or changing things, in surface densities of the sky."""

    star_density_per_deg2: float | None = Field(
        default=None, description="stars per deg2 brighter than r = 20.5; None follows Galactic latitude and longitude"
    )
    star_bright_shift_mag: float = Field(
        default=0.0,
        description="mag; makes the luminosity function brighter (tiny fields need many calibrators in few pixels)",
    )
    star_bright_limit_mag: float = Field(default=6.5, description="mag (r); no star brighter than this")
    galaxy_density_per_deg2: float = Field(default=1300.0, description="galaxies per deg2 brighter than r = 20.5")
    faint_limit_mag: float = Field(default=22.0, description="mag (r) of the faintest painted source, about S/N 1.5")
    variable_fraction: float = Field(default=0.01, description="fraction of stars that vary by 0.05 mag or more")
    transients_per_quadrant: int = Field(default=24, description="injected supernovae in each field and quadrant")
    transient_snr: tuple[float, float] = Field(
        default=(5.0, 100.0), description="S/N range at peak under nominal conditions"
    )
    transient_separation_px: float = Field(default=45.0, description="px; no two transients are closer than this")
    transient_edge_px: float = Field(
        default=40.0, description="px; distance of transients from the quadrant's nominal edges"
    )
    transient_host_fraction: float = Field(default=0.5, description="fraction of transients that sit on a galaxy")
    asteroids_per_quadrant: float = Field(
        default=3.0, description="mean number of main-belt-like asteroids per quadrant"
    )
    asteroid_snr: tuple[float, float] = Field(
        default=(5.0, 60.0), description="S/N range of asteroids, nominal conditions"
    )
    fast_movers_per_quadrant: float = Field(
        default=0.15, description="mean number of streaking near-Earth objects per quadrant"
    )
    fast_mover_length_px: tuple[float, float] = Field(
        default=(8.0, 60.0), description="px; range of the lengths of their streaks, evenly spread in the logarithm"
    )
    fast_mover_snr: tuple[float, float] = Field(
        default=(12.0, 80.0),
        description="range of the S/N of their whole streaks under nominal conditions, in the logarithm",
    )


class OpticsConfig(StepConfig):
    """Telescope, atmosphere and photometric system."""

    seeing_arcsec: float = Field(
        default=2.15, description="arcsec; median delivered FWHM of the night in r at airmass 1"
    )
    seeing_scatter: float = Field(default=0.06, description="relative drift of the FWHM through the night (1 sigma)")
    wing_fraction: float = Field(
        default=0.10, description="mean fraction of a star's light in the wide Moffat component"
    )
    ellipticity: float = Field(default=0.03, description="typical ellipticity, from tracking and from the optics")
    pointing_error_arcsec: float = Field(default=4.0, description="arcsec; 1 sigma per axis between exposures")
    rotation_error_deg: float = Field(default=0.01, description="deg; 1 sigma of field rotation between exposures")
    scale_error: float = Field(
        default=3e-5, description="relative 1 sigma change of pixel scale between exposures (refraction)"
    )
    distortion_quadratic: float = Field(default=4e-4, description="1/deg; 1 sigma of TPV second-order coefficients")
    distortion_cubic: float = Field(default=4e-4, description="1/deg2; 1 sigma of TPV third-order coefficients")
    zeropoint_mag: tuple[float, float, float] = Field(
        default=(26.30, 26.30, 25.70), description="mag; 1 DN in a 30 s exposure in g, r, i at airmass 1.2, colour 0"
    )
    colour_term: tuple[float, float, float] = Field(
        default=(-0.05, 0.10, 0.05),
        description="c of m_PS1 = m_inst + zp + c*colour; colour g-r for g and r, r-i for i",
    )
    extinction_mag: tuple[float, float, float] = Field(
        default=(0.20, 0.12, 0.08), description="mag per airmass in g, r, i"
    )
    sky_mag_arcsec2: tuple[float, float, float] = Field(
        default=(21.8, 21.2, 20.8), description="mag/arcsec2 of the dark zenith sky in g, r, i"
    )
    cloud_mag: float = Field(
        default=0.03, description="mag; scale of the grey extinction of thin cloud through the night"
    )
    moon: bool = Field(default=True, description="whether moonlight brightens the sky (Krisciunas & Schaefer 1991)")
    ghost_mag: float = Field(default=9.5, description="mag; stars brighter than this have a halo and a pupil ghost")
    trails_per_ccd: float = Field(
        default=0.12, description="mean satellite trails per CCD and exposure (full-size CCD)"
    )


class DetectorConfig(StepConfig):
    """CCDs and their electronics; counts are per million pixels so that any quadrant size looks alike."""

    bias_level_dn: float = Field(default=1000.0, description="DN; mean electronic offset of the amplifiers")
    bias_drift_dn: float = Field(default=3.0, description="DN; 1 sigma of the offset's change between exposures")
    row_drift_dn: float = Field(
        default=1.5, description="DN; amplitude of the offset's smooth drift along the rows of a frame"
    )
    full_well_dn: float = Field(default=51000.0, description="DN; signal above which charge bleeds along the column")
    pixel_response_rms: float = Field(default=0.006, description="relative pixel-to-pixel response scatter")
    lowfreq_response: float = Field(
        default=0.03, description="relative amplitude of smooth response and vignetting changes"
    )
    lamp_nonuniformity: float = Field(
        default=0.004, description="relative amplitude of the flat screen's uneven illumination"
    )
    flat_level_dn: float = Field(default=17000.0, description="DN; level of the screen flats")
    dust_per_mpx: float = Field(default=2.0, description="dust rings per million pixels")
    dead_per_mpx: float = Field(default=20.0, description="dead pixels per million pixels")
    hot_per_mpx: float = Field(default=30.0, description="hot pixels per million pixels")
    noisy_per_mpx: float = Field(default=30.0, description="pixels with ten times the read noise, per million pixels")
    bad_columns_per_mpx: float = Field(default=0.25, description="partly dead columns per million pixels")
    radiation_per_mpx: float = Field(default=7.0, description="radiation hits per million pixels in a 30 s exposure")
    gain_scatter: float = Field(default=0.01, description="relative difference of the true gains from the nominal one")
    serial_tail: float = Field(
        default=4e-4, description="fraction of the last pixel's signal found in the first overscan column"
    )


class SimulatorConfig(StepConfig):
    """Everything about the mountain; `SimulatorConfig()` is a quiet field, `.tiny()` suits 264 x 256 px quadrants."""

    sky: SkyConfig = SkyConfig()
    optics: OpticsConfig = OpticsConfig()
    detector: DetectorConfig = DetectorConfig()

    @classmethod
    def tiny(cls) -> SimulatorConfig:
        """A sky dense enough that 4.4 arcmin of it hold 60-100 detectable stars, half of them good calibrators."""
        sky = SkyConfig(
            star_density_per_deg2=16500.0,
            star_bright_shift_mag=1.2,
            star_bright_limit_mag=11.5,
            galaxy_density_per_deg2=2000.0,
            transients_per_quadrant=5,
            asteroids_per_quadrant=0.7,
            fast_movers_per_quadrant=0.1,
            transient_edge_px=34.0,
            transient_separation_px=42.0,
        )
        detector = DetectorConfig(radiation_per_mpx=15.0, dust_per_mpx=8.0, bad_columns_per_mpx=2.0)
        return cls(sky=sky, optics=OpticsConfig(trails_per_ccd=0.05), detector=detector)

    @classmethod
    def plane(cls) -> SimulatorConfig:
        """A field of the Galactic plane, about 60,000 detectable stars in a full-size quadrant."""
        return cls(sky=SkyConfig(star_density_per_deg2=80000.0, galaxy_density_per_deg2=300.0))
