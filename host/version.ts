// The version, from package.json: esbuild bundles the JSON, tsx reads it.
import manifest from '../package.json' with { type: 'json' };

export const VERSION: string = manifest.version;
