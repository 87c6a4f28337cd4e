import { groupIdOf } from './group.ts';
import type { Document } from './schema.ts';

/** The groups that may use the agent's sockets; null: none. */
export interface SocketGroups {
  readonly socketGroup: number | null;
  readonly controlGroup: number | null;
}

export interface GroupProblem {
  readonly key: 'socket_group' | 'control_group';
  readonly message: string;
}

export async function socketGroupsOf(document: Document): Promise<SocketGroups & { problems: GroupProblem[] }> {
  const problems: GroupProblem[] = [];
  const numberOf = async (key: GroupProblem['key']): Promise<number | null> => {
    const group = await groupIdOf(document[key]);
    if (group.ok) return group.value;
    problems.push({ key, message: group.message });
    return null;
  };
  const socketGroup = await numberOf('socket_group');
  return { socketGroup, controlGroup: await numberOf('control_group'), problems };
}
