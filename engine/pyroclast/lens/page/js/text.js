// What parts write with: elements that only hold text, and numbers in one form.

export * from "./dom.js";
export * from "./format.js";
