/** Thrown when settings are unusable. `message` names every fault, one a line, and repeats no value that may be a secret. */
export class ConfigError extends Error {
  readonly code = 'invalid_config';
  readonly faults: readonly string[];
  constructor(faults: readonly string[]) {
    super(`the settings are not usable:\n${faults.map((fault) => `  ${fault}`).join('\n')}`);
    this.name = 'ConfigError';
    this.faults = faults;
  }
}

/** Thrown by {@link Setting.parse}. The message follows the name of the setting: "must be …". */
export class SettingFault extends Error {}

/** How the text of one environment variable becomes a value. */
export interface Setting<T> {
  readonly default: T;
  /** @throws SettingFault when the text is no such value */
  parse(text: string): T;
  /** The value may be a secret, or carry one: no message repeats it. */
  readonly isPrivate?: boolean;
  /** White space around the value belongs to it. Everywhere else it is a slip. */
  readonly isVerbatim?: boolean;
}

/** A message repeats only a short value without the marks of a URL: anything else may be a secret in the wrong place. */
const MAY_BE_SHOWN = /^[^@/]{1,20}$/;

type Values<Table> = { readonly [Name in keyof Table]: Table[Name] extends Setting<infer T> ? T : never };

export interface SettingsRead<Table> {
  /** A faulty setting has its default here, so check `faults` before relying on a value. */
  readonly values: Values<Table>;
  /** By name: what is wrong, in a sentence that starts with the name. */
  readonly faults: ReadonlyMap<keyof Table, string>;
}

/** Reads every setting of the table. An unset or empty variable has its default. Collects all faults; never throws one. */
export function readSettings<Table extends Readonly<Record<string, Setting<unknown>>>>(
  table: Table,
  env: NodeJS.ProcessEnv,
): SettingsRead<Table> {
  const values: Record<string, unknown> = {};
  const faults = new Map<keyof Table, string>();
  for (const [name, setting] of Object.entries(table)) {
    const text = env[name];
    values[name] = setting.default;
    // Compose files pass unset variables on as empty ones.
    if (text === undefined || text === '') continue;
    try {
      if (setting.isVerbatim !== true && text.trim() !== text) {
        throw new SettingFault('must have no white space around its value');
      }
      values[name] = setting.parse(text);
    } catch (error) {
      if (!(error instanceof SettingFault)) throw error;
      const isShown = setting.isPrivate !== true && MAY_BE_SHOWN.test(text);
      faults.set(name, `${name} ${error.message}${isShown ? ` (got "${text}")` : ''}`);
    }
  }
  return { values: values as Values<Table>, faults };
}

/** The same setting, whose value no message repeats. */
export function asPrivate<T>(setting: Setting<T>): Setting<T> {
  return { ...setting, isPrivate: true };
}

interface IntegerRule {
  readonly min: number;
  readonly max: number;
  /** A word that stands for "no limit". */
  readonly unlimited?: string;
}

export function integer({ min, max, unlimited }: IntegerRule, byDefault: number): Setting<number> {
  return {
    default: byDefault,
    parse(text) {
      if (unlimited !== undefined && text === unlimited) return Number.POSITIVE_INFINITY;
      const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
      if (value >= min && value <= max) return value;
      const alternative = unlimited === undefined ? '' : ` or "${unlimited}"`;
      throw new SettingFault(`must be an integer from ${min} to ${max}${alternative}`);
    },
  };
}

export function boolean(byDefault: boolean): Setting<boolean> {
  return {
    default: byDefault,
    parse(text) {
      if (TRUE.includes(text)) return true;
      if (FALSE.includes(text)) return false;
      throw new SettingFault('must be true or false');
    },
  };
}

const TRUE = ['true', 't', 'yes', 'on', '1'];
const FALSE = ['false', 'f', 'no', 'off', '0'];

export function oneOf<T extends string, D extends T | undefined>(choices: readonly T[], byDefault: D): Setting<T | D> {
  return {
    default: byDefault,
    parse(text) {
      const choice = choices.find((known) => known === text);
      if (choice !== undefined) return choice;
      throw new SettingFault(`must be one of ${choices.join(', ')}`);
    },
  };
}

export function text<D extends string | undefined>(byDefault: D): Setting<string | D> {
  return { default: byDefault, parse: (value) => value };
}

/** The first part of a key in Redis. Braces would change its slot in a cluster, `*` and `?` what a pattern of an ACL matches. */
export function keyPrefix(byDefault: string): Setting<string> {
  return {
    default: byDefault,
    parse(text) {
      if (/^[\w.:-]{1,64}$/.test(text)) return text;
      throw new SettingFault('must be 1 to 64 letters, digits or . _ : -');
    },
  };
}

/** A token that programs send as `Authorization: Bearer …`. Its characters are those that RFC 6750 (2.1) allows there. */
export function bearerToken(): Setting<string | undefined> {
  return {
    default: undefined,
    parse(text) {
      if (/^[\w.~+/-]{16,256}=*$/.test(text)) return text;
      throw new SettingFault('must be 16 to 256 letters, digits or - . _ ~ + /');
    },
    isPrivate: true,
  };
}

/** A password: any text, white space included. */
export function password<D extends string | undefined>(byDefault: D): Setting<string | D> {
  return { default: byDefault, parse: (value) => value, isPrivate: true, isVerbatim: true };
}
