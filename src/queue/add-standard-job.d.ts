/** BullMQ ships its scripts' types only beside its ESM build, which Node does not load without a warning. */
declare module 'bullmq/dist/cjs/scripts/addStandardJob-9.js' {
  export const addStandardJob: { readonly name: string; readonly content: string; readonly keys: number };
}
