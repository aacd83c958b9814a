/** Version of this package; a test compares it with package.json. */
export const VERSION = "0.9.0"
