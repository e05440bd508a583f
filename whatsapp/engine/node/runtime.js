// @ts-check
/**
 * What must be true before Baileys is loaded. Import this first.
 *
 * - Node.js 24: Baileys makes an AsyncLocalStorage per socket, and on 20 and 22 every
 *   one that ever ran slows down each promise of the process, for ever.
 * - No console: libsignal prints whole session records, private keys included, through
 *   console.info and console.warn.
 */
const OLDEST = 24

if (Number.parseInt(process.versions.node, 10) < OLDEST) {
  process.stderr.write(
    `ERROR Node.js ${OLDEST} or newer is needed, this is ${process.version}\n`,
  )
  process.exit(78) // EX_CONFIG of sysexits.h
}

for (const name of Object.keys(console)) {
  const member = /** @type {any} */ (console)[name]
  if (typeof member === 'function') /** @type {any} */ (console)[name] = () => {}
}
