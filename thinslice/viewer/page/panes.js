// SPDX-License-Identifier: Apache-2.0
// A pane shows one volume in one or more planes. NiiVue holds the volume and draws the pictures. The page itself draws
// everything over the pictures and handles mouse and keys, so that two panes always agree.
"use strict";

const NIIVUE_SLICE_TYPE = [2, 1, 0]; // NiiVue's number of a plane, by the world axis that it cuts across
const SHADING_TEXTURES = [33990, 33992]; // NiiVue's texture units 6 and 8
// The map is clear at zero and solid from seven tenths of its top value on, so that small values hide nothing. Its
// opacity (A) grows with the square of the value (I) in between.
const MAP_COLOURS = {
  I: [0, 45, 90, 135, 179, 255],
  R: [255, 255, 254, 249, 240, 200],
  G: [240, 214, 184, 131, 82, 20],
  B: [130, 82, 39, 28, 24, 60],
  A: [0, 16, 64, 145, 255, 255],
};
// NiiVue makes an overlay solid wherever it is not quite clear; without this line, the map keeps its table's opacity.
const ROUNDED_OPACITY = "FragColor.a = step(0.00001, FragColor.a);";
if (window.WebGL2RenderingContext) {
  const { shaderSource } = WebGL2RenderingContext.prototype;
  WebGL2RenderingContext.prototype.shaderSource = function gradedShaderSource(shader, source) {
    shaderSource.call(this, shader, source.replace(ROUNDED_OPACITY, ""));
  };
}

class Pane {
  constructor(section) {
    this.section = section;
    this.canvas = section.querySelector(".picture");
    this.marks = section.querySelector(".marks");
    this.niivue = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairWidth: 0, dragAndDropEnabled: false, interactive: false, isColorbar: false,
      isNearestInterpolation: true, isOrientationTextVisible: false, isRadiologicalConvention: true,
      isResizeCanvas: false, isSliceMM: false, loadingText: "", logLevel: "error", sagittalNoseLeft: true,
      show3Dcrosshair: false, tileMargin: 0,
    });
    this.box = null; // what each plane shows: { low, high } in mm of the common frame; NiiVue also draws while it loads
    this.offset = [0, 0, 0]; // of this volume's first corner in the common frame, mm
    // NiiVue fits each volume into its tile separately; two volumes of different extent would not coincide
    this.niivue.calculateWidthHeight = (_plane, _scale, width, height) => [width, height];
    // NiiVue also prepares the shading of volume renderings, which this page never draws. On a large volume, this took
    // most of the time and memory. These textures keep only their depth, over which NiiVue's loops run.
    const allocate = this.niivue.rgbaTex.bind(this.niivue);
    this.niivue.rgbaTex = (texture, unit, dims, ...more) =>
      allocate(texture, unit, SHADING_TEXTURES.includes(unit) ? [dims[0], 1, 1, dims[3]] : dims, ...more);
    this.niivue.screenFieldOfViewExtendedVox = (sliceType) =>
      this.fieldOfView(PLANES[NIIVUE_SLICE_TYPE.indexOf(sliceType)]);
  }

  // Start NiiVue once, when it is first needed, because it compiles about twenty programs for the graphics card.
  attach() {
    this.attached ??= this.start();
    return this.attached;
  }

  async start() {
    try {
      await this.niivue.attachToCanvas(this.canvas, false);
    } catch {
      throw new Error("The browser offers no WebGL 2: try another one, or switch its hardware acceleration on.");
    }
    this.niivue.addColormap("map", MAP_COLOURS);
    this.section.style.backgroundColor = ""; // NiiVue makes it black, which would hide what lies under a wipe
  }

  get volume() {
    return this.niivue.volumes[0];
  }

  get map() {
    return this.niivue.volumes[1];
  }

  clear() {
    this.marks.getContext("2d").clearRect(0, 0, this.marks.width, this.marks.height);
    while (this.niivue.volumes.length) this.niivue.removeVolumeByIndex(this.niivue.volumes.length - 1);
  }

  // Show a volume; `window` returns its black and white once it is read, or null if it is no longer wanted.
  async load(bytes, window) {
    const volume = await niivue.NVImage.loadFromUrl({ url: bytes, name: "volume.nii" });
    const limits = window(volume);
    if (!limits) return;
    Object.assign(volume, { cal_min: limits[0], cal_max: limits[1] });
    this.niivue.addVolume(volume);
    this.counts = volume.dimsRAS.slice(1, 4); // voxels along the axes nearest to right, front, head
    this.spacing = volume.pixDimsRAS.slice(1, 4);
    this.lengths = this.counts.map((n, i) => n * this.spacing[i]);
    this.offset = [0, 0, 0];
  }

  // The common frame is that of the result: mm along its voxel axes from its first corner. Both volumes share the axes.
  placeIn(frame) {
    const corner = frame.toFraction(this.toWorld([0, 0, 0]));
    this.offset = corner.map((f, i) => f * frame.lengths[i]);
  }

  toWorld(fraction) {
    return Array.from(this.niivue.frac2mm(fraction, 0, true)).slice(0, 3);
  }

  toFraction(world) {
    return Array.from(this.niivue.mm2frac(world, 0, true));
  }

  // Coordinates of a world point in the common frame, in mm.
  toFrame(world) {
    return this.toFraction(world).map((f, i) => f * this.lengths[i] + this.offset[i]);
  }

  voxelAt(world) {
    return this.toFraction(world).map((f, i) => Math.floor(f * this.counts[i] + 1e-4));
  }

  contains(world) {
    return this.voxelAt(world).every((v, i) => v >= 0 && v < this.counts[i]);
  }

  valueAt(world, volume = this.volume) {
    return volume && this.contains(world) ? volume.getValue(...this.voxelAt(world)) : null;
  }

  fieldOfView(plane) {
    const { low, high } = this.box?.[plane.normal] ?? { low: [0, 0], high: [1, 1] };
    const start = this.volume.extentsMinOrtho;
    const along = [plane.across, plane.up];
    const limits = (edge) => [
      ...along.map((axis, i) => start[axis] + edge[i] - this.offset[axis]),
      (edge === low ? start : this.volume.extentsMaxOrtho)[plane.normal],
    ];
    const [mnMM, mxMM] = [limits(low), limits(high)];
    const rotation = new Float32Array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]);
    return { mnMM, mxMM, rotation, fovMM: mxMM.map((v, i) => v - mnMM[i]) };
  }

  resize(ratio) {
    const { clientWidth, clientHeight } = this.section;
    const [width, height] = [clientWidth, clientHeight].map((n) => Math.max(1, Math.round(n * ratio)));
    for (const canvas of [this.canvas, this.marks]) {
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    }
  }

  draw({ tiles, box }, world) {
    if (!this.volume) return;
    const { width, height } = this.canvas;
    this.box = box;
    this.niivue.scene.crosshairPos = this.toFraction(world).map((f) => clamp(f, 0, 1));
    this.niivue.setCustomLayout(tiles.map((tile) => ({
      sliceType: NIIVUE_SLICE_TYPE[tile.plane],
      position: [tile.x / width, tile.y / height, tile.width / width, tile.height / height],
    })));
    this.niivue.drawScene();
  }

  setWindow([low, high]) {
    if (!this.volume || (this.volume.cal_min === low && this.volume.cal_max === high)) return;
    Object.assign(this.volume, { cal_min: low, cal_max: high });
    this.niivue.refreshLayers(this.volume, 0);
  }

  setSmooth(smooth) {
    if (this.niivue.opts.isNearestInterpolation === !smooth) return;
    this.niivue.setInterpolation(!smooth);
  }

  async loadMap(bytes) {
    const map = await niivue.NVImage.loadFromUrl({ url: bytes, name: "map.nii", colormap: "map", opacity: 0 });
    this.top = Math.max(quantile(map, 0.995), 1e-6);
    Object.assign(map, { cal_min: 0, cal_max: this.top });
    this.niivue.addVolume(map);
  }

  setMapOpacity(opacity) {
    if (!this.map || this.map.opacity === opacity) return;
    this.map.opacity = opacity;
    this.niivue.refreshLayers(this.map, 1);
  }
}

// Grey value below which this fraction of the voxels lies, from a sample of them, in scanner units.
function quantile(volume, fraction) {
  const { img, hdr } = volume;
  const step = Math.max(1, Math.floor(img.length / 200000));
  const sample = [];
  for (let i = 0; i < img.length; i += step) sample.push(img[i]);
  sample.sort((a, b) => a - b);
  return sample[Math.round(fraction * (sample.length - 1))] * hdr.scl_slope + hdr.scl_inter;
}
