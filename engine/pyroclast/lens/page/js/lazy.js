// A function that computes its value when it is first called.
export function lazy(make) {
  let found;
  return () => (found ??= make());
}
